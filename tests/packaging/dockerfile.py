"""A Dockerfile's instructions, as far as this project's uses them."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import NamedTuple


class Instruction(NamedTuple):
    """`RUN` and what stands behind it, on one line."""

    word: str
    text: str

    @property
    def words(self) -> list[str]:
        """The JSON form of an instruction, or its text as a shell splits it."""
        _, bracket, _ = self.text.partition("[")
        if bracket and not self.text.startswith("-"):
            return [str(word) for word in json.loads(self.text)]
        return shlex.split(self.text)


def read(path: Path) -> list[Instruction]:
    text = re.sub(r"^\s*#.*\n", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [Instruction(*line.split(maxsplit=1)) for line in lines if line.strip()]


def stages(instructions: list[Instruction]) -> dict[str, list[Instruction]]:
    """Name of each FROM (the last one: `final`) -> what follows it."""
    found: dict[str, list[Instruction]] = {}
    name = None
    for instruction in instructions:
        if instruction.word == "FROM":
            image, _, name = instruction.text.partition(" AS ")
            name = name or "final"
            found[name] = [Instruction("FROM", image)]
        elif name is not None:
            found[name].append(instruction)
    return found


def value(instructions: list[Instruction], word: str) -> Instruction:
    """The one instruction with this word. Raises ValueError when there is none, or another."""
    (found,) = (i for i in instructions if i.word == word)
    return found
