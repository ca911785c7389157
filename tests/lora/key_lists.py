"""Key lists of real files in every naming, a few modules each, from keys/*.txt.

A list begins with `# title: naming family`. Each further line is a key and its shape, at rank 8.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

from lensd.lora.tensor_spec import TensorSpec
from tests.lora.making import Tensors

FOLDER = Path(__file__).with_name("keys")
DOWN = (("down", "up"), ("lora_A", "lora_B"), ("w_a_", "w_b_"))
RANK = 8


class KeyList(NamedTuple):
    title: str
    naming: str
    family: str
    specs: dict[str, TensorSpec]

    @property
    def pairs(self) -> dict[str, str]:
        """The key of each `down` -> the key of its `up`."""
        found = {}
        for key in self.specs:
            for down, up in DOWN:
                before, part, after = key.rpartition(down)
                if part and before + up + after in self.specs:
                    found[key] = before + up + after
        return found

    def tensors(self, seed: int = 0) -> Tensors:
        """Return random factors with decreasing singular values, in float16; alpha is 4."""
        random = torch.Generator().manual_seed(seed)
        made: Tensors = {}
        for key, spec in self.specs.items():
            if not spec.shape:
                made[key] = torch.tensor(4.0).half()
                continue
            values = torch.randn(spec.shape, generator=random) * 0.1
            if key in self.pairs:
                values *= torch.logspace(0, -3, RANK).reshape(RANK, *(1,) * (len(spec.shape) - 1))
            made[key] = values.half()
        return made


def read() -> list[KeyList]:
    """Return all lists, in the order of their files."""
    lists = []
    for path in sorted(FOLDER.glob("*.txt")):
        for block in path.read_text(encoding="utf-8").strip().split("\n\n"):
            head, *lines = block.splitlines()
            title, _, told = head.removeprefix("# ").rpartition(": ")
            naming, family = told.split()
            lists.append(KeyList(title, naming, family, dict(_entry(line) for line in lines)))
    return lists


def of(title: str) -> KeyList:
    """Return the list of that title."""
    return next(found for found in read() if found.title == title)


def _entry(line: str) -> tuple[str, TensorSpec]:
    key, size = line.split()
    shape = () if size == "scalar" else tuple(int(side) for side in size.split("x"))
    return key, TensorSpec("F16", shape)
