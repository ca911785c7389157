"""Compare the delta weights of two LoRA files, with few modules in memory at a time."""

from __future__ import annotations

import os
from collections.abc import Sequence

from torch import Tensor

from lensd.engine.pool import available_cores, single_threaded_pool
from lensd.engine.reader import Source
from lensd.engine.results import Comparison, ModuleComparison
from lensd.engine.strength import strengths
from lensd.lora import comparison, composites, fidelity
from lensd.lora.comparison import AnyModule, Distance
from lensd.lora.composites import Form
from lensd.lora.layout import Module
from lensd.text import printable

# up [out, r, ...], down [r, in, ...] and scale of a module: delta = scale * up @ down
Factors = tuple[Tensor, Tensor, float]


def compare(a: str, b: str) -> Comparison:
    """Measure the error of the file `b` relative to the file `a`, per module and overall.

    In the overall errors, a module that only one file has counts as a module of zeros in the
    other; `delta_error_common` leaves such modules out, and is None where no other is left. Raises
    Skipped, Failed and UsageError.
    """
    with (
        Source.open_any(os.path.realpath(a)) as first,
        Source.open_any(os.path.realpath(b)) as second,
        single_threaded_pool(available_cores()) as pool,
    ):
        of_a, of_b = Reader(first), Reader(second)
        pairs, only_a, only_b = comparison.pair(of_a.modules, of_b.modules)
        common = list(pool.map(lambda p: _distance(of_a, p[0], of_b, p[1]), pairs))
        energies_a = list(pool.map(of_a.energy, only_a))
        energies_b = list(pool.map(of_b.energy, only_b))
    missing_in_b = [Distance(energy, 0.0, energy) for energy in energies_a]
    missing_in_a = [Distance(0.0, energy, energy) for energy in energies_b]
    overall = _add([*common, *missing_in_b, *missing_in_a])
    return Comparison(
        a=printable(a),
        b=printable(b),
        modules=len(pairs),
        delta_error=_relative_error(overall),
        snr_db=_signal_to_noise(overall),
        delta_error_common=_relative_error(_add(common)) if common else None,
        only_in_a=[m.name for m in only_a],
        only_in_b=[m.name for m in only_b],
        per_module=[_compare_module(*p, d) for p, d in zip(pairs, common, strict=True)],
    )


class Reader:
    """Reads the modules of a file with their scales, by alpha and the header."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._strengths = strengths(source)

    @property
    def modules(self) -> tuple[AnyModule, ...]:
        return (*self._source.layout.modules, *self._source.layout.composites)

    def factors(self, module: Module) -> Factors:
        up, down = self._source.factors(module)
        scale = (self._source.alpha(module) or module.rank) / module.rank
        return up, down, scale * self._strengths.get(module.name, 1.0)

    def form(self, module: AnyModule) -> tuple[Form, float]:
        if isinstance(module, Module):
            up, down, scale = self.factors(module)
            return comparison.form_of_pair(up, down), scale
        parts = self._source.parts(module)
        return composites.form_of(module.kind, parts), module.scale(self._source.alpha(module))

    def energy(self, module: AnyModule) -> float:
        """Return ||delta||_F^2."""
        if isinstance(module, Module):
            up, down, scale = self.factors(module)
            nothing = up[:, :1] * 0, down[:1] * 0, scale
            return comparison.distance((up, down, scale), nothing).energy_a
        form, scale = self.form(module)
        return sum(float(piece.square().sum()) for piece in form.pieces(scale))


def _distance(of_a: Reader, a: AnyModule, of_b: Reader, b: AnyModule) -> Distance:
    if isinstance(a, Module) and isinstance(b, Module):
        return comparison.distance(of_a.factors(a), of_b.factors(b))
    return comparison.distance_of_forms(of_a.form(a), of_b.form(b))


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


def _compare_module(a: AnyModule, b: AnyModule, d: Distance) -> ModuleComparison:
    return ModuleComparison(
        module=a.name,
        module_b=b.name,
        rank_a=a.rank,
        rank_b=b.rank,
        delta_error=_relative_error(d),
        snr_db=_signal_to_noise(d),
    )
