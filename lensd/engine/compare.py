"""Compare the delta weights of two LoRA files, with few modules in memory at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from torch import Tensor

from lensd.engine.pool import available_cores, single_threaded_pool
from lensd.engine.reader import Source
from lensd.engine.results import Comparison, ModuleComparison
from lensd.engine.strength import strengths
from lensd.lora import comparison, fidelity
from lensd.lora.comparison import Distance
from lensd.lora.layout import Module
from lensd.text import printable

# up [out, r, ...], down [r, in, ...] and scale of a module: delta = scale * up @ down
Factors = tuple[Tensor, Tensor, float]


def compare(a: str, b: str) -> Comparison:
    """Measure the error of the file `b` relative to the file `a`, per module and overall.

    In the overall errors, a module that only one file has counts as a module of zeros in the
    other; `delta_error_common` leaves such modules out. Raises Skipped, Failed and UsageError.
    """
    with (
        Source.open_any(os.path.realpath(a)) as first,
        Source.open_any(os.path.realpath(b)) as second,
        single_threaded_pool(available_cores()) as pool,
    ):
        read_a, read_b = _factor_reader(first), _factor_reader(second)
        pairs, only_a, only_b = comparison.pair(first.layout.modules, second.layout.modules)
        common = list(pool.map(lambda p: comparison.distance(read_a(p[0]), read_b(p[1])), pairs))
        energies_a = list(pool.map(lambda m: _energy(read_a(m)), only_a))
        energies_b = list(pool.map(lambda m: _energy(read_b(m)), only_b))
    missing_in_b = [Distance(energy, 0.0, energy) for energy in energies_a]
    missing_in_a = [Distance(0.0, energy, energy) for energy in energies_b]
    overall = _add([*common, *missing_in_b, *missing_in_a])
    return Comparison(
        a=printable(a),
        b=printable(b),
        modules=len(pairs),
        delta_error=_relative_error(overall),
        snr_db=_signal_to_noise(overall),
        delta_error_common=_relative_error(_add(common)),
        only_in_a=[m.name for m in only_a],
        only_in_b=[m.name for m in only_b],
        per_module=[_compare_module(*p, d) for p, d in zip(pairs, common, strict=True)],
    )


def _factor_reader(source: Source) -> Callable[[Module], Factors]:
    """Return a function that reads a module's factors and scale, by its alpha and the header."""
    strength_of = strengths(source)

    def read(module: Module) -> Factors:
        up, down = source.factors(module)
        scale = (source.alpha(module) or module.rank) / module.rank
        return up, down, scale * strength_of.get(module.name, 1.0)

    return read


def _energy(factors: Factors) -> float:
    """Return ||delta||_F^2 of a module."""
    up, down, scale = factors
    return comparison.distance(factors, (up[:, :1] * 0, down[:1] * 0, scale)).energy_a


def _add(distances: Sequence[Distance]) -> Distance:
    """Add up squared norms and squared errors."""
    return Distance(
        energy_a=sum(d.energy_a for d in distances),
        energy_b=sum(d.energy_b for d in distances),
        squared_error=sum(d.squared_error for d in distances),
    )


def _relative_error(d: Distance) -> float | None:
    return comparison.relative(d.squared_error, d.energy_a)


def _signal_to_noise(d: Distance) -> float | None:
    return fidelity.decibels(d.energy_a, d.squared_error)


def _compare_module(a: Module, b: Module, d: Distance) -> ModuleComparison:
    return ModuleComparison(
        module=a.name,
        module_b=b.name,
        rank_a=a.rank,
        rank_b=b.rank,
        delta_error=_relative_error(d),
        snr_db=_signal_to_noise(d),
    )
