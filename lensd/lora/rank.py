"""Singular spectra -> the ranks to keep.

The energy of a module is the sum of its squared singular values, which is the squared Frobenius
norm of its delta weight. Keeping the share e of it leaves a relative delta error of sqrt(1 - e).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Demand:
    """One module's part in an allocation: its spectrum (true scale) and what one rank costs.

    At most `limit` ranks (None: all) are given to it; its energy counts whole all the same.
    """

    values: Tensor  # [r], descending, float64
    bytes_per_rank: int
    limit: int | None = None

    @property
    def squares(self) -> Tensor:
        """Energy of each rank that may be given."""
        return self.values[: self.limit].double().square()


def smallest_rank(values: Tensor, energy: float) -> int:
    """The smallest k >= 1 whose first k squared singular values hold `energy` of their sum."""
    return _smallest(values.double().square(), energy)


def _smallest(squares: Tensor, energy: float) -> int:
    cumulative = squares.cumsum(0)
    return int((cumulative >= energy * cumulative[-1]).int().argmax()) + 1


def retained(values: Tensor, rank: int) -> float:
    """The share of energy that the first `rank` singular values hold; 1 for an all-zero module."""
    squares = values.double().square()
    total = float(squares.sum())
    return float(squares[:rank].sum()) / total if total > 0 else 1.0


def per_module(demands: Sequence[Demand], energy: float) -> list[int]:
    """Each module reaches `energy` by itself."""
    return [min(smallest_rank(d.values, energy), len(d.squares)) for d in demands]


def per_file(demands: Sequence[Demand], energy: float) -> list[int]:
    """The file as a whole reaches `energy`, at few bytes and never more than `per_module` needs.

    Ranks are taken by worth; what the last ones bring too much pays for taking others back. Where
    limits put `energy` out of reach, each module goes as far towards it as it may.
    """
    by_module = per_module(demands, energy)
    wanted = energy * sum(float(d.values.double().square().sum()) for d in demands)
    picks = _by_worth(demands)
    gains = _column([_energy(demands, [1] * len(demands)), *(p.gain for p in picks)])
    taken = int((gains.cumsum(0) < wanted).sum())
    if taken > len(picks):
        return by_module
    surplus = float(gains[: taken + 1].sum()) - wanted
    by_worth = _counted(_without_excess(picks[:taken], surplus), len(demands))
    cheaper = _bytes(demands, by_module) < _bytes(demands, by_worth)
    return by_module if cheaper and _energy(demands, by_module) >= wanted else by_worth


def within_size(demands: Sequence[Demand], size: int) -> list[int]:
    """The most energy that `size` bytes of factors hold; never below one rank a module."""
    left = size - sum(d.bytes_per_rank for d in demands)
    taken, closed = [], set()
    for pick in _by_worth(demands):
        if pick.cost <= left and pick.owner not in closed:
            left -= pick.cost
            taken.append(pick)
        else:
            closed.add(pick.owner)
    return _counted(taken, len(demands))


def constant(demands: Sequence[Demand], energy: float) -> int:
    """The smallest rank that, given to all modules, lets the file as a whole reach `energy`."""
    return _smallest(_summed([d.values.double().square() for d in demands]), energy)


def constant_within_size(demands: Sequence[Demand], size: int) -> int:
    """The largest rank for all modules that `size` bytes of factors hold; at least 1."""
    costs = [torch.full_like(d.squares, d.bytes_per_rank) for d in demands]
    return max(1, int((_summed(costs).cumsum(0) <= size).sum()))


def _column(numbers: Sequence[float]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def _summed(columns: Sequence[Tensor]) -> Tensor:
    """Sum over modules, rank by rank, of columns of unequal length."""
    result = torch.zeros(max(len(c) for c in columns), dtype=torch.float64)
    for column in columns:
        result[: len(column)] += column
    return result


class _Pick(NamedTuple):
    """One rank of one module: the energy it brings, its bytes, the module's index."""

    gain: float
    cost: int
    owner: int


def _by_worth(demands: Sequence[Demand]) -> list[_Pick]:
    """Every rank after a module's first, most energy per byte first.

    Singular values descend, so that within a module the ranks come in their own order and taking
    any prefix of the list is a valid choice. The sort is stable: equal worth keeps file order.
    """
    picks = [
        _Pick(gain, d.bytes_per_rank, owner)
        for owner, d in enumerate(demands)
        for gain in d.squares[1:].tolist()
    ]
    return sorted(picks, key=lambda p: -p.gain / p.cost)


def _without_excess(taken: Sequence[_Pick], surplus: float) -> list[_Pick]:
    """Take back what the surplus of energy allows, of each module its last ranks first."""
    kept, closed = [], set()
    for pick in reversed(taken):
        if pick.gain <= surplus and pick.owner not in closed:
            surplus -= pick.gain
        else:
            closed.add(pick.owner)
            kept.append(pick)
    return kept


def _counted(picks: Sequence[_Pick], modules: int) -> list[int]:
    counts = Counter(p.owner for p in picks)
    return [1 + counts[owner] for owner in range(modules)]


def _energy(demands: Sequence[Demand], ranks: Sequence[int]) -> float:
    return sum(float(d.squares[:k].sum()) for d, k in zip(demands, ranks, strict=True))


def _bytes(demands: Sequence[Demand], ranks: Sequence[int]) -> int:
    return sum(d.bytes_per_rank * k for d, k in zip(demands, ranks, strict=True))
