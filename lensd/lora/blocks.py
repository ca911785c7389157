"""Find the block of the base model that a module belongs to, for tables and plots."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from lensd.lora.names import canonical

UNKNOWN_PART = "other"
_NUMBERED = re.compile(
    r"(?P<part>\w*?(?:blocks|block|layers|layer|refiner))_(?P<number>\d+)(?:_|$)"
)
_IN_ENCODER = re.compile(r"(?:layers|layer|block)_(?P<number>\d+)(?:_|$)")


class Block(NamedTuple):
    """A part of the base model (`down_blocks`, `double_blocks`, `te1`) and a number within it.

    Blocks sort by part, then by number. A part without numbers (`mid_block`) has the number -1.
    """

    part: str
    number: int = -1

    def __str__(self) -> str:
        return self.part if self.number < 0 else f"{self.part}.{self.number}"


# Parts in the order in which a model computes them. Parts that are not listed sort last.
_PARTS = (
    "te1", "te2", "te3",
    "down_blocks", "mid_block", "up_blocks",
    "double_blocks", "transformer_blocks", "single_blocks", "single_transformer_blocks",
)  # fmt: skip


def in_model(block: Block) -> tuple[int, Block]:
    """Return a key that sorts blocks in the order in which the model computes them."""
    return (_PARTS.index(block.part) if block.part in _PARTS else len(_PARTS)), block


@lru_cache(maxsize=4096)  # a file's modules are asked for several times
def block_of(module: str) -> Block:
    """Return the block of a module by its name, in any naming; `other` if the name has none."""
    component, _, path = canonical(module).partition("/")
    if component != "denoiser":
        found = _IN_ENCODER.search(path)
        return Block(component, int(found["number"]) if found else -1)
    if path.startswith("mid_block_"):
        return Block("mid_block")
    found = _NUMBERED.match(path)
    return Block(found["part"], int(found["number"])) if found else Block(UNKNOWN_PART)
