"""Compare two LoRAs: find the modules that both have, and measure how far apart they are.

The error of a module is ||A - B||_F / ||A||_F, where A is its delta weight in the first file, the
reference, and B is its delta weight in the second file.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from torch import Tensor

from lensd.lora import fidelity
from lensd.lora.composite_layout import Composite
from lensd.lora.composites import Form
from lensd.lora.layout import Module
from lensd.lora.names import canonical
from lensd.lora.reading import flatten

AnyModule: TypeAlias = Module | Composite


class Pairing(NamedTuple):
    """The modules of two files: pairs in both, and the modules that only one file has.

    Pairs are in the order of the first file.
    """

    both: tuple[tuple[AnyModule, AnyModule], ...]
    only_a: tuple[AnyModule, ...]
    only_b: tuple[AnyModule, ...]


class Distance(NamedTuple):
    """Squared Frobenius norms of the two delta weights of one module, and of their difference."""

    energy_a: float
    energy_b: float
    squared_error: float


def pair(a: Sequence[AnyModule], b: Sequence[AnyModule]) -> Pairing:
    """Match modules by canonical name and widths, whichever naming each file uses.

    Modules of one name and different widths are different modules.
    """
    by_key_a, by_key_b = _index_by_name(a), _index_by_name(b)
    both = {k: (m, by_key_b[k]) for k, m in by_key_a.items() if k in by_key_b}
    return Pairing(
        both=tuple(both.values()),
        only_a=tuple(m for k, m in by_key_a.items() if k not in both),
        only_b=tuple(m for k, m in by_key_b.items() if k not in both),
    )


def _index_by_name(modules: Iterable[AnyModule]) -> Mapping[tuple[str, int, int], AnyModule]:
    return {(canonical(m.name), m.out_features, m.in_features): m for m in modules}


def distance(a: tuple[Tensor, Tensor, float], b: tuple[Tensor, Tensor, float]) -> Distance:
    """Measure two modules, each as (up [out, r, ...], down [r, in, ...], scale).

    The delta weight is scale * up @ down. Any dtypes; the ranks may differ.
    """
    up, down = _fold_scale_into_up(*a)
    other_up, other_down = _fold_scale_into_up(*b)
    # Factors of equal shape may differ by rounding alone, which needs the more exact measure.
    same_shape = up.shape == other_up.shape
    measure = fidelity.squared_rounding if same_shape else fidelity.squared_distance
    return Distance(
        fidelity.squared_norm(up, down),
        fidelity.squared_norm(other_up, other_down),
        measure(up, down, other_up, other_down),
    )


def distance_of_forms(a: tuple[Form, float], b: tuple[Form, float]) -> Distance:
    """Measure two delta weights scale * form of one shape, whatever computes them, in pieces."""
    energy_a = energy_b = error = 0.0
    for x, y in zip(a[0].pieces(a[1]), b[0].pieces(b[1]), strict=True):
        energy_a += float(x.square().sum())
        energy_b += float(y.square().sum())
        error += float((x - y).square().sum())
    return Distance(energy_a, energy_b, error)


def form_of_pair(up: Tensor, down: Tensor) -> Form:
    """Return up [out, r, ...] and down [r, in, ...] as a form, float64."""
    return Form("LoRA", flatten(up.double(), down.double()))


def _fold_scale_into_up(up: Tensor, down: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    up, down = flatten(up.double(), down.double())
    return up * scale, down


def relative(squared_error: float, energy: float) -> float | None:
    """Return sqrt(squared_error / energy); None if only the energy is 0."""
    if squared_error == 0:
        return 0.0
    return math.sqrt(squared_error / energy) if energy > 0 else None
