"""Measure how much a compressed LoRA changes the images of the small diffusion model.

The damage is the RMS difference between the images with the compressed and with the full LoRA,
divided by the RMS difference between those with the full LoRA and without one. All images have
equal seeds.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, linalg

from bench.pictures_lora import Training, apply, layers
from bench.pictures_model import sample
from lensd.lora import rank
from lensd.lora.rank import Demand
from tests.engine import asking
from tests.support.delta import deltas, relative_error

BUDGETS = (0.97, 0.99, 0.999)  # each rule may use the bytes of `module` at these energies
ENERGIES = (0.98, 0.99, 0.999)
ALLOCATIONS = ("module", "file", "balanced")
POWERS = (0.0, 0.25, 0.5, 0.75, 1.0)


class Facts(NamedTuple):
    """What a rule may know of a module."""

    energy: float  # of its delta weight
    base: float  # the squared norm of the base weight
    outputs: int  # rows of both


Rule = Callable[[Facts], float]  # the weight of a unit of the module's energy


class Row(NamedTuple):
    """One compressed LoRA. `rule` is a rule or an allocation; `stored` an encoding.

    `bytes` are those of the factors for a rule, and those of the file for an allocation.
    """

    training: str
    rule: str
    stored: str
    energy: float
    bytes_in: int
    bytes: int
    delta_error: float
    damage: float


class Sampling(NamedTuple):
    """How many images to make, in how many steps."""

    images: int = 40
    steps: int = 20


class Judge:
    """Measures delta weights against those of one training's LoRA."""

    def __init__(self, training: Training, sampling: Sampling) -> None:
        self.training = training
        self.sampling = sampling
        self.deltas = deltas(training.path)
        self.without = self.images({})
        self.full = self.images(self.deltas)
        self.effect = _rms(self.full - self.without)

    def images(self, changes: Mapping[str, Tensor]) -> Tensor:
        images, steps = self.sampling
        return sample(apply(self.training.model, changes), images=images, steps=steps, seed=77)

    def damage(self, images: Tensor) -> float:
        return _rms(images - self.full) / self.effect

    def row(
        self, rule: str, stored: str, energy: float, size: int, changes: Mapping[str, Tensor]
    ) -> Row:
        error = relative_error(self.deltas, changes)
        damage = self.damage(self.images(changes))
        before = self.training.path.stat().st_size
        return Row(self.training.name, rule, stored, energy, before, size, error, damage)


def rules() -> dict[str, Rule]:
    """Return the rules that order ranks by their weighted energy per byte."""
    by_power: dict[str, Rule] = {f"p = {p:g}": _by_power(p) for p in POWERS}
    return {
        **by_power,
        "base norm": lambda module: 1 / module.base,
        "outputs": lambda module: 1 / module.outputs,
        "outputs, p = 0.5": lambda module: (module.energy * module.outputs) ** -0.5,
    }


def _by_power(p: float) -> Rule:
    return lambda module: module.energy**-p


def compare_rules(judge: Judge) -> Iterator[Row]:
    """Truncate to the ranks of each rule at equal bytes, in float64."""
    base = layers(judge.training.model)
    names = list(judge.deltas)
    parts = [linalg.svd(judge.deltas[name], full_matrices=False) for name in names]
    costs = [2 * sum(delta.shape) for delta in judge.deltas.values()]
    plain = [Demand(s, cost) for (_, s, _), cost in zip(parts, costs, strict=True)]

    facts = [
        Facts(_square(d.values), _square(base[name]), len(base[name]))
        for name, d in zip(names, plain, strict=True)
    ]

    def truncated(ranks: Sequence[int]) -> dict[str, Tensor]:
        cut = zip(names, parts, ranks, strict=True)
        return {name: (u[:, :k] * s[:k]) @ v[:k] for name, (u, s, v), k in cut}

    for energy in BUDGETS:
        ranks = rank.per_module(plain, energy)
        size = sum(cost * k for cost, k in zip(costs, ranks, strict=True))
        yield judge.row("module", "float64", energy, size, truncated(ranks))
        for rule, weight in rules().items():
            demands = [
                Demand(d.values * weight(module) ** 0.5, d.bytes_per_rank)
                for d, module in zip(plain, facts, strict=True)
            ]
            ranks = rank.within_size(demands, size)
            yield judge.row(rule, "float64", energy, size, truncated(ranks))


def settings(encodings: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str, float]]:
    """Yield allocation, encoding and energy of each setting of lensd to measure."""
    for stored in encodings:
        if stored != "float16":
            yield "module", stored, 1.0
        for allocation in ALLOCATIONS if stored == "int8" else ("module",):
            for energy in ENERGIES:
                yield allocation, stored, energy


def measure_settings(judge: Judge, encodings: Mapping[str, Mapping[str, Any]]) -> Iterator[Row]:
    """Compress the LoRA with lensd itself; `encodings`: name -> parameters that give it."""
    with tempfile.TemporaryDirectory(prefix="lensd-bench-") as folder:
        out = Path(folder, "out.safetensors")
        for allocation, stored, energy in settings(encodings):
            asking.compress(
                judge.training.path,
                out,
                allocation=allocation,
                energy=energy,
                min_saving=-1.0,
                **encodings[stored],
            )
            yield judge.row(allocation, stored, energy, out.stat().st_size, deltas(out))


def _rms(difference: Tensor) -> float:
    return float(difference.double().square().mean().sqrt())


def _square(values: Tensor) -> float:
    return float(values.double().square().sum())
