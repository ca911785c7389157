"""Two LoRA files -> how far apart their delta weights are, one module in memory at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from msgspec import Struct
from torch import Tensor

from lensd.engine.passes import available_cores, single_threaded_pool
from lensd.engine.reader import Source
from lensd.engine.strength import strengths
from lensd.lora import comparison, fidelity
from lensd.lora.comparison import Distance
from lensd.lora.layout import Module

Factors = Callable[[Module], tuple[Tensor, Tensor, float]]


class ModuleDistance(Struct, frozen=True, kw_only=True):
    """One module that both files have. None: there is nothing in the first file."""

    module: str
    module_b: str
    rank_a: int
    rank_b: int
    delta_error: float | None
    snr_db: float | None


class Comparison(Struct, frozen=True, kw_only=True):
    """The answer of `lensd compare`. None: no difference, or nothing in the first file."""

    modules: int
    delta_error: float | None
    snr_db: float | None
    delta_error_common: float | None
    only_in_a: list[str]
    only_in_b: list[str]
    per_module: list[ModuleDistance]


def compare(a: str, b: str) -> Comparison:
    """Errors per module and overall, of `b` against `a`, and what only one of them holds.

    Overall, a module that only one file has counts whole; `delta_error_common` leaves those out.
    Raises Skipped, Failed, UsageError.
    """
    with (
        Source.open_any(os.path.realpath(a)) as first,
        Source.open_any(os.path.realpath(b)) as second,
        single_threaded_pool(available_cores()) as pool,
    ):
        of_a, of_b = _reader(first), _reader(second)
        pairs, only_a, only_b = comparison.pair(first.layout.modules, second.layout.modules)
        found = list(pool.map(lambda p: comparison.distance(of_a(p[0]), of_b(p[1])), pairs))
        lost = list(pool.map(lambda m: _against_nothing(of_a(m)), only_a))
        added = list(pool.map(lambda m: _against_nothing(of_b(m)), only_b))
    whole = [*found, *(Distance(e, 0.0, e) for e in lost), *(Distance(0.0, e, e) for e in added)]
    delta_error, snr_db = _overall(whole)
    return Comparison(
        modules=len(pairs),
        delta_error=delta_error,
        snr_db=snr_db,
        delta_error_common=_overall(found)[0],
        only_in_a=[m.name for m in only_a],
        only_in_b=[m.name for m in only_b],
        per_module=[_module(*p, d) for p, d in zip(pairs, found, strict=True)],
    )


def _reader(source: Source) -> Factors:
    """up, down and scale of a module: delta = scale * up @ down."""
    own = strengths(source)

    def read(module: Module) -> tuple[Tensor, Tensor, float]:
        up, down = source.factors(module)
        scale = (source.alpha(module) or module.rank) / module.rank
        return up, down, scale * own.get(module.name, 1.0)

    return read


def _against_nothing(factors: tuple[Tensor, Tensor, float]) -> float:
    up, down, scale = factors
    return comparison.distance(factors, (up[:, :1] * 0, down[:1] * 0, scale)).energy_a


def _overall(distances: Sequence[Distance]) -> tuple[float | None, float | None]:
    """Relative delta error and SNR in dB."""
    energy = sum(d.energy_a for d in distances)
    error = sum(d.squared_error for d in distances)
    return comparison.relative(error, energy), fidelity.decibels(energy, error)


def _module(a: Module, b: Module, d: Distance) -> ModuleDistance:
    return ModuleDistance(
        module=a.name,
        module_b=b.name,
        rank_a=a.rank,
        rank_b=b.rank,
        delta_error=comparison.relative(d.squared_error, d.energy_a),
        snr_db=fidelity.decibels(d.energy_a, d.squared_error),
    )
