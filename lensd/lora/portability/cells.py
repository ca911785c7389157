"""What a program does with a LoRA whose factors have an encoding, and how that is known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, get_args

Program = Literal[
    "comfyui",
    "comfyui-bypass",
    "a1111",
    "a1111-functional",
    "forge",
    "kohya",
    "diffusers",
    "invokeai",
    "invokeai-sidecar",
    "sdnext",
]
PROGRAMS: tuple[Program, ...] = get_args(Program)
DEFAULT_TARGETS: tuple[Program, ...] = ("comfyui", "a1111", "forge")

# int8 with its scale in alpha, or float8_e4m3fn (F8_E4M3) with the alpha of a float file.
Encoding = Literal["int8", "float8"]
ENCODINGS: tuple[Encoding, ...] = ("int8", "float8")  # in order of preference: int8 is more exact

Kind = Literal["exact", "reads nothing", "refuses", "wrong", "not observed"]


# `test`: a test of tests/loading loads such files with the program itself. `run`: its own code
# loaded such a file, outside of this repository. `read`: its code was read; tests/engine restate
# the lines that multiply the factors.
How = Literal["test", "run", "read"]


class Source(NamedTuple):
    """How a cell is known, of which version of the program, and since when."""

    how: How
    version: str
    date: str


class Cell(NamedTuple):
    """What a program does with one dialect in one encoding.

    `detail`: a pattern of the message with which it refuses, or how the result is wrong. `source`
    is None only for `not observed`.
    """

    kind: Kind
    detail: str
    source: Source | None

    @property
    def may_read(self) -> bool:
        """Whether the program must be considered: it reads the dialect, or may read it."""
        return self.kind != "reads nothing"


Cells = Mapping[Encoding, Cell]
NOT_OBSERVED = Cell("not observed", "", None)
