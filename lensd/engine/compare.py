"""Compare the delta weights of two LoRA files, with few modules in memory at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TypedDict

from torch import Tensor

from lensd.engine.passes import available_cores, single_threaded_pool
from lensd.engine.reader import Source
from lensd.engine.strength import strengths
from lensd.lora import comparison, fidelity
from lensd.lora.comparison import Distance
from lensd.lora.layout import Module

# up [out, r, ...], down [r, in, ...] and scale of a module: delta = scale * up @ down
Factors = tuple[Tensor, Tensor, float]


class Errors(TypedDict):
    """The error of B relative to A, as ||A - B||_F / ||A||_F and as SNR in dB.

    None: A is zero and B is not (error); A or the difference is zero (SNR).
    """

    delta_error: float | None
    snr_db: float | None


class ModuleErrors(Errors):
    """The errors of one module, and its name and rank in both files."""

    module: str
    module_b: str
    rank_a: int
    rank_b: int


class Comparison(Errors):
    """The document of `lensd compare --json`, without the paths."""

    modules: int  # in both files
    delta_error_common: float | None
    only_in_a: list[str]
    only_in_b: list[str]
    per_module: list[ModuleErrors]


def compare(a: str, b: str) -> Comparison:
    """Measure the error of the file `b` relative to the file `a`, per module and overall.

    In the overall errors, a module that only one file has counts as a module of zeros in the other;
    `delta_error_common` leaves such modules out. Raises Skipped, Failed and UsageError.
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
    return {
        "modules": len(pairs),
        **_overall_errors([*common, *missing_in_b, *missing_in_a]),
        "delta_error_common": _overall_errors(common)["delta_error"],
        "only_in_a": [m.name for m in only_a],
        "only_in_b": [m.name for m in only_b],
        "per_module": [_module_errors(*p, d) for p, d in zip(pairs, common, strict=True)],
    }


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


def _overall_errors(distances: Iterable[Distance]) -> Errors:
    distances = list(distances)
    energy = sum(d.energy_a for d in distances)
    error = sum(d.squared_error for d in distances)
    return {
        "delta_error": comparison.relative(error, energy),
        "snr_db": fidelity.decibels(energy, error),
    }


def _module_errors(a: Module, b: Module, d: Distance) -> ModuleErrors:
    return {
        "module": a.name,
        "module_b": b.name,
        "rank_a": a.rank,
        "rank_b": b.rank,
        "delta_error": comparison.relative(d.squared_error, d.energy_a),
        "snr_db": fidelity.decibels(d.energy_a, d.squared_error),
    }
