"""Choose the rank of each module of an output, in the module alone or in the whole file."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from lensd.lora import portability, rank
from lensd.lora.layout import Layout
from lensd.lora.parameters import Parameters
from lensd.lora.plan import Reading
from lensd.lora.tensor_spec import ITEM_SIZE


def own_energy(p: Parameters) -> float | None:
    """Return the energy that each module must keep, if only that decides its rank; else None."""
    of_file = p.allocation != "module" or p.constant_rank or p.target_size is not None
    return None if p.mode == "int8" or of_file else p.energy


def columns(reading: Reading, p: Parameters) -> int:
    """Return how many singular vectors `reduce` needs: all ranks if the whole file decides.

    With `strict_energy` a module may need a few more, and `reduce` computes the others again.
    """
    energy = own_energy(p)
    if energy is None:
        return reading.module.rank
    return reading.smallest_rank(1 - 0.9 * (1 - energy) if p.strict_energy else energy)


def modules_with_fixed_rank(layout: Layout, targets: Sequence[str]) -> set[str]:
    """Return the names of modules whose rank must not change.

    At another rank, a module that is scaled last would need an alpha of its own, and diffusers
    misreads a file with different alphas.
    """
    if "diffusers" not in portability.constraining(layout, targets):
        return set()
    return {m.name for m in layout.modules if m.scaled_last}


def choose_ranks(
    readings: Sequence[Reading],
    encodings: Sequence[str],
    p: Parameters,
    fixed: Collection[str],
    least: Mapping[str, int],
) -> list[int]:
    """Return the rank of each module.

    The modules named in `fixed` keep their rank. A target size is first reduced by their bytes.
    Others whose number format changes get at most the rank that their delta weight can have. The
    ranks in `least` are the lowest allowed, except for `max_rank`.
    """
    ranks = [
        r.module.rank if r.module.name in fixed or r.module.dtype == encoding else len(r.kept)
        for r, encoding in zip(readings, encodings, strict=True)
    ]
    if p.mode == "int8":
        return ranks
    variable = [at for at, r in enumerate(readings) if r.module.name not in fixed]
    floors = [least.get(readings[at].module.name, 1) for at in variable]
    energy = own_energy(p)
    if energy is None:
        chosen = _allocate_in_file(readings, encodings, ranks, variable, floors, p)
    else:
        of_modules = [readings[at].smallest_rank(energy) for at in variable]
        chosen = [max(pair) for pair in zip(of_modules, floors, strict=True)]
    for at, k in zip(variable, chosen, strict=True):
        ranks[at] = min(k, ranks[at], p.max_rank or k)
    return ranks


def _allocate_in_file(
    readings: Sequence[Reading],
    encodings: Sequence[str],
    ranks: Sequence[int],
    variable: Sequence[int],
    floors: Sequence[int],
    p: Parameters,
) -> list[int]:
    """Return the ranks of the modules at these indices; the others have the ranks in `ranks`."""
    if not variable:
        return []
    costs = [
        ITEM_SIZE[e] * (r.module.out_features + r.module.in_features)
        for r, e in zip(readings, encodings, strict=True)
    ]
    if p.target_size is not None:
        spent = sum(costs[at] * k for at, k in enumerate(ranks) if at not in set(variable))
        p = replace(p, target_size=p.target_size - spent)
    demands = [
        rank.Demand(_counted_values(readings[at], p), costs[at], p.max_rank) for at in variable
    ]
    return rank.allocate(demands, p, floors)


def _counted_values(reading: Reading, p: Parameters) -> Tensor:
    """Return the singular values with which a module counts in the file."""
    if p.allocation == "balanced":
        return rank.balance(reading.values)
    return reading.values
