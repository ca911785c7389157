"""The results of `compare` and `expand`. This module does not import torch."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from lensd.logs.measures import Amount, Count, Positive, Text

Error = Annotated[
    Amount | None,
    Meta(description="relative, of the delta weights; null: those of the first file are zero"),
]
Decibels = Annotated[
    float | None,
    Meta(description="null: no difference, or the delta weights of the first file are zero"),
]


class ModuleComparison(Struct, frozen=True, kw_only=True):
    """One module in both files."""

    module: Annotated[Text, Meta(description="its name in the first file")]
    module_b: Annotated[Text, Meta(description="its name in the second file")]
    rank_a: Positive
    rank_b: Positive
    delta_error: Error
    snr_db: Decibels


class Comparison(Struct, frozen=True, kw_only=True):
    """The output of `lensd compare --json`."""

    a: Annotated[Text, Meta(description="the first file, which is the reference")]
    b: Text
    modules: Annotated[Count, Meta(description="in both files")]
    delta_error: Error
    snr_db: Decibels
    delta_error_common: Annotated[
        Error, Meta(description="of the modules in both files, if there are any")
    ]
    only_in_a: list[Text]
    only_in_b: list[Text]
    per_module: list[ModuleComparison]


class Expanded(Struct, frozen=True, kw_only=True):
    """The sizes of an 8-bit file and of its float form; `expanded`: the number of 8-bit modules."""

    bytes_in: int
    bytes_out: int
    modules: int
    expanded: int
