"""The table of docs/formats.md for people says what the code's table says."""

from __future__ import annotations

from pathlib import Path

import pytest

from lensd.lora.portability import ENCODINGS, PROGRAMS, cell

PAGE = Path(__file__).parents[2] / "docs" / "formats.md"
NAMES = {
    "ComfyUI": "comfyui",
    "ComfyUI, bypass node": "comfyui-bypass",
    "AUTOMATIC1111": "a1111",
    "AUTOMATIC1111, functional": "a1111-functional",
    "Forge": "forge",
    "kohya sd-scripts": "kohya",
    "diffusers": "diffusers",
    "InvokeAI": "invokeai",
    "InvokeAI, sidecar": "invokeai-sidecar",
    "SD.Next": "sdnext",
}
WORDS = {
    "int8": ("exact", "rounded", "the same"),
    "float8": ("as float8",),
    None: ("does not read the naming at all",),
}


def rows() -> dict[str, list[str]]:
    """Program -> the cells behind it."""
    section = PAGE.read_text(encoding="utf-8").split("## Your program")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]
    return {NAMES[name]: rest for name, *rest in cells}


def test_every_program_has_a_row() -> None:
    assert set(PROGRAMS) == set(rows())


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_encoding_is_told_as_it_is(program: str) -> None:
    """int8, float8 or nothing: in SD's kohya naming, and in FLUX's peft naming."""
    _, *told, remedy = rows()[program]
    encodings = [exact(dialect, program) for dialect in ("kohya: sd", "peft transformer: flux")]
    for words, encoding in zip(told, encodings, strict=True):
        assert words.startswith(WORDS[encoding])
    assert (remedy == "-") == ("float8" not in encodings)


def exact(dialect: str, program: str) -> str | None:
    """The first encoding that a program loads exactly."""
    found = [e for e in ENCODINGS if cell(dialect, program, e).kind == "exact"]
    return found[0] if found else None
