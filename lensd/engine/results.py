"""The results of `compare` and `expand`. This module does not import torch."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

Path = Annotated[str, Meta(min_length=1)]
ModuleName = Annotated[str, Meta(min_length=1)]
Count = Annotated[int, Meta(ge=0)]
Rank = Annotated[int, Meta(ge=1)]
Error = Annotated[
    Annotated[float, Meta(ge=0)] | None,
    Meta(description="relative, of the delta weights; null: those of the first file are zero"),
]
Decibels = Annotated[
    float | None,
    Meta(description="null: no difference, or the delta weights of the first file are zero"),
]


class ModuleComparison(Struct, frozen=True, kw_only=True):
    """One module in both files."""

    module: Annotated[ModuleName, Meta(description="its name in the first file")]
    module_b: Annotated[ModuleName, Meta(description="its name in the second file")]
    rank_a: Rank
    rank_b: Rank
    delta_error: Error
    snr_db: Decibels


class Comparison(Struct, frozen=True, kw_only=True):
    """The output of `lensd compare --json`."""

    a: Annotated[Path, Meta(description="the first file, which is the reference")]
    b: Path
    modules: Annotated[Count, Meta(description="in both files")]
    delta_error: Error
    snr_db: Decibels
    delta_error_common: Annotated[Error, Meta(description="of the modules in both files")]
    only_in_a: list[ModuleName]
    only_in_b: list[ModuleName]
    per_module: list[ModuleComparison]


class Expanded(Struct, frozen=True, kw_only=True):
    """The sizes of an int8 file and of its float form; `expanded`: the number of int8 modules."""

    bytes_in: int
    bytes_out: int
    modules: int
    expanded: int
