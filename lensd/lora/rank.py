"""Choose the ranks to keep from singular spectra.

The energy of a module is the sum of its squared singular values, which is the squared Frobenius
norm of its delta weight. Keeping a share e of the energy gives a relative delta error of
sqrt(1 - e).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lensd.lora.parameters import Parameters


@dataclass(frozen=True, slots=True)
class Demand:
    """One module in an allocation: its spectrum and the bytes that one rank takes.

    The module gets at most `limit` ranks (None: no limit). All of its energy counts towards the
    file's total, also beyond the limit.
    """

    values: Tensor  # singular values of delta [r], descending, float64
    bytes_per_rank: int
    limit: int | None = None

    @property
    def squares(self) -> Tensor:
        """The energy of each rank that the module may get."""
        return self.values[: self.limit].double().square()


def kept_energy(values: Tensor) -> Tensor:
    """Return the energy of the first 1, 2, ... r singular values, for [..., r], as float64."""
    return values.double().square().cumsum(-1)


def smallest_rank(values: Tensor, energy: float) -> int:
    """Return the smallest k >= 1 whose first k values have the share `energy` of all energy."""
    return smallest_count(kept_energy(values).tolist(), energy)


def smallest_count(kept: Sequence[float], energy: float) -> int:
    """Return `smallest_rank`, given `kept_energy`."""
    return bisect_left(kept, energy * kept[-1]) + 1


def retained(kept: Sequence[float], rank: int) -> float:
    """Return the share of energy in the first `rank` singular values, given `kept_energy`.

    It is 1 for a module of zeros, and where the rank exceeds the number of values.
    """
    return kept[rank - 1] / kept[-1] if rank < len(kept) and kept[-1] > 0 else 1.0


def balance(values: Tensor) -> Tensor:
    """Return singular values whose energy is the norm of the delta weight.

    So a module counts by its norm, not by the square: weak modules get more ranks than their energy
    alone asks for (docs/decisions/0038).
    """
    norm = float(values.double().norm())
    return values / norm**0.5 if norm > 0 else values


def allocate(demands: Sequence[Demand], p: Parameters, floors: Sequence[int]) -> list[int]:
    """Return ranks, at least `floors`, where not only each module decides its own rank."""
    if p.constant_rank:
        return [max(_constant_rank(demands, p), *floors)] * len(demands)
    if p.target_size is not None:
        ranks = within_size(demands, p.target_size)
    else:
        ranks = per_file(demands, p.energy)
    return [max(pair) for pair in zip(ranks, floors, strict=True)]


def _constant_rank(demands: Sequence[Demand], p: Parameters) -> int:
    """Return one rank for all modules; modules with fewer ranks keep theirs."""
    if p.target_size is not None:
        return constant_within_size(demands, p.target_size)
    if p.allocation == "module":
        return max(per_module(demands, p.energy))
    return constant(demands, p.energy)


def per_module(demands: Sequence[Demand], energy: float) -> list[int]:
    """Return ranks with which each module keeps the share `energy` of its own energy.

    A module whose limit is lower gets its limit.
    """
    return [
        min(smallest_rank(d.values, energy), len(d.values) if d.limit is None else d.limit)
        for d in demands
    ]


def per_file(demands: Sequence[Demand], energy: float) -> list[int]:
    """Return ranks with which the whole file keeps the share `energy` of its energy.

    They take few bytes, and never more than the ranks of `per_module`. Ranks are taken in the order
    of their energy per byte. The last ranks may exceed the required energy, so ranks that the
    surplus covers are dropped again. If the limits put `energy` out of reach, the ranks are those
    of `per_module`.
    """
    by_module = per_module(demands, energy)
    required = energy * sum(float(d.values.double().square().sum()) for d in demands)
    ordered = _order_by_worth(demands)
    gains = [_total_energy(demands, [1] * len(demands)), *(r.gain for r in ordered)]
    gain_column = torch.tensor(gains, dtype=torch.float64)
    taken = int((gain_column.cumsum(0) < required).sum())
    if taken > len(ordered):
        return by_module
    surplus = float(gain_column[: taken + 1].sum()) - required
    by_worth = _count_ranks(_drop_surplus(ordered[:taken], surplus), len(demands))
    cheaper = _total_bytes(demands, by_module) < _total_bytes(demands, by_worth)
    return by_module if cheaper and _total_energy(demands, by_module) >= required else by_worth


def within_size(demands: Sequence[Demand], size: int) -> list[int]:
    """Return ranks that keep much energy in at most `size` bytes of factors.

    Each module gets at least one rank, even if these exceed the size.
    """
    remaining = size - sum(d.bytes_per_rank for d in demands)
    taken, closed = [], set()
    for rank in _order_by_worth(demands):
        if rank.cost <= remaining and rank.module not in closed:
            remaining -= rank.cost
            taken.append(rank)
        else:
            closed.add(rank.module)
    return _count_ranks(taken, len(demands))


def constant(demands: Sequence[Demand], energy: float) -> int:
    """Return the smallest rank for all modules that keeps the share `energy` of the whole file."""
    squares = _sum_by_rank([d.values.double().square() for d in demands])
    return smallest_count(squares.cumsum(0).tolist(), energy)


def constant_within_size(demands: Sequence[Demand], size: int) -> int:
    """Return the largest rank for all modules that fits in `size` bytes of factors; at least 1."""
    costs = [torch.full_like(d.squares, d.bytes_per_rank) for d in demands]
    return max(1, int((_sum_by_rank(costs).cumsum(0) <= size).sum()))


def _sum_by_rank(columns: Sequence[Tensor]) -> Tensor:
    """Sum up columns [r] of unequal length, rank by rank."""
    result = torch.zeros(max(len(c) for c in columns), dtype=torch.float64)
    for column in columns:
        result[: len(column)] += column
    return result


class _Rank(NamedTuple):
    """One rank of one module."""

    gain: float  # its energy
    cost: int  # its bytes
    module: int  # index of its module


def _order_by_worth(demands: Sequence[Demand]) -> list[_Rank]:
    """Return all ranks but the first of each module, most energy per byte first.

    Singular values descend, so the ranks of a module stay in their order, and the first n entries
    of the list are a valid choice for any n. The sort is stable: ranks of equal worth keep the
    order of the file.
    """
    ranks = [
        _Rank(gain, d.bytes_per_rank, module)
        for module, d in enumerate(demands)
        for gain in d.squares[1:].tolist()
    ]
    return sorted(ranks, key=lambda r: -r.gain / r.cost)


def _drop_surplus(taken: Sequence[_Rank], surplus: float) -> list[_Rank]:
    """Drop ranks whose energy the surplus covers, the last ranks of each module first."""
    kept, closed = [], set()
    for rank in reversed(taken):
        if rank.gain <= surplus and rank.module not in closed:
            surplus -= rank.gain
        else:
            closed.add(rank.module)
            kept.append(rank)
    return kept


def _count_ranks(taken: Sequence[_Rank], modules: int) -> list[int]:
    """Return the rank of each module: its first rank and those taken."""
    counts = Counter(r.module for r in taken)
    return [1 + counts[module] for module in range(modules)]


def _total_energy(demands: Sequence[Demand], ranks: Sequence[int]) -> float:
    return sum(float(d.squares[:k].sum()) for d, k in zip(demands, ranks, strict=True))


def _total_bytes(demands: Sequence[Demand], ranks: Sequence[int]) -> int:
    return sum(d.bytes_per_rank * k for d, k in zip(demands, ranks, strict=True))
