"""Two LoRAs' modules side by side: which belong together, and how far apart they are.

The error of a module is ||A - B||_F / ||A||_F of its delta weights; the first file is the truth.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from lensd.lora import fidelity
from lensd.lora.layout import Module
from lensd.lora.names import canonical
from lensd.lora.reading import flatten


class Pairing(NamedTuple):
    """The modules of two files, in the first one's order."""

    both: tuple[tuple[Module, Module], ...]
    only_a: tuple[Module, ...]
    only_b: tuple[Module, ...]


class Distance(NamedTuple):
    """Squared Frobenius norms of one module's delta weights, and of their difference."""

    energy_a: float
    energy_b: float
    squared_error: float


def pair(a: Sequence[Module], b: Sequence[Module]) -> Pairing:
    """Find the same module in both, whichever naming; one of other widths is another module."""
    ours, theirs = _by_name(a), _by_name(b)
    both = {k: (m, theirs[k]) for k, m in ours.items() if k in theirs}
    return Pairing(
        both=tuple(both.values()),
        only_a=tuple(m for k, m in ours.items() if k not in both),
        only_b=tuple(m for k, m in theirs.items() if k not in both),
    )


def _by_name(modules: Iterable[Module]) -> Mapping[tuple[str, int, int], Module]:
    return {(canonical(m.name), m.out_features, m.in_features): m for m in modules}


def distance(a: tuple[Tensor, Tensor, float], b: tuple[Tensor, Tensor, float]) -> Distance:
    """Of two modules as (up [out, r, ...], down [r, in, ...], scale), any dtype, ranks unequal."""
    up, down = _scaled(*a)
    other_up, other_down = _scaled(*b)
    same_shape = up.shape == other_up.shape  # then rounding alone may be the difference
    measure = fidelity.squared_rounding if same_shape else fidelity.squared_distance
    return Distance(
        fidelity.squared_norm(up, down),
        fidelity.squared_norm(other_up, other_down),
        measure(up, down, other_up, other_down),
    )


def _scaled(up: Tensor, down: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    up, down = flatten(up.double(), down.double())
    return up * scale, down


def relative(squared_error: float, energy: float) -> float | None:
    """None where something stands against nothing."""
    if squared_error == 0:
        return 0.0
    return math.sqrt(squared_error / energy) if energy > 0 else None
