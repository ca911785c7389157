"""lensd.lora.rank: the ranks are those of a float64 SVD, also if allocated over a file."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lensd.lora import rank
from lensd.lora.layout import read_layout
from lensd.lora.rank import Demand
from lensd.lora.reading import read_module
from tests.lora import making
from tests.lora.making import Made
from tests.support.suites import examples

THRESHOLDS = (0.9, 0.95, 0.99, 0.999)
CLOSE = 1e-9  # a cumulative energy this near the threshold may be on either side of it


def columns(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@examples(150)
@given(making.modules())
def test_ranks_are_those_of_float64_svd(made: Made) -> None:
    """At every threshold, unless the energy is within 1e-9 of it; at least 1, at most the own."""
    tensors = making.kohya("lora_unet_x", made)
    module = read_layout(making.specs_of(tensors)).modules[0]
    alpha = float(tensors[module.alpha]) if module.alpha else None
    reading = read_module(module, made.up, made.down, alpha)
    assert reading is not None
    squares = making.spectrum(making.product(made.up, made.down)).square()
    if not squares.any():
        assert [rank.smallest_rank(reading.values, e) for e in THRESHOLDS] == [1] * 4
        return
    shares = (squares.cumsum(0) / squares.sum()).tolist()
    for energy in THRESHOLDS:
        found = rank.smallest_rank(reading.values, energy)
        expected = next(k for k, share in enumerate(shares, 1) if share >= energy)
        assert 1 <= found <= made.rank
        between = shares[min(found, expected) - 1 : max(found, expected) - 1]
        assert all(abs(share - energy) <= CLOSE for share in between), (found, expected)
        assert rank.retained(reading.kept, found) == pytest.approx(shares[found - 1], abs=1e-11)


def test_smallest_rank_is_not_one_too_many() -> None:
    """To reach the threshold exactly is enough (kohya's index_sv_* keep one or two more)."""
    values = columns([8.0, 4.0, 2.0, 1.0])  # energies 64, 80, 84, 85 of 85
    assert rank.smallest_rank(values, 64 / 85) == 1
    assert rank.smallest_rank(values, 64 / 85 + 1e-6) == 2
    assert rank.smallest_rank(values, 1.0) == 4
    assert rank.smallest_rank(columns([3.0, 0.0, 0.0]), 1.0) == 1


def test_an_untrained_module_keeps_rank_1_and_all_of_its_energy() -> None:
    """Rank 0 breaks every loader. A module of zeros has no energy to lose."""
    assert rank.smallest_rank(columns([0.0, 0.0]), 0.99) == 1
    assert rank.retained(rank.kept_energy(columns([0.0, 0.0])).tolist(), 1) == 1.0


def test_no_rank_retains_more_than_all_energy() -> None:
    """The sum of some values, rounded, can exceed the sum of all; a share above 1 ended a job."""
    for seed in range(200):
        values = torch.rand(61, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        tail = 1e-9 * torch.ones(3, dtype=torch.float64)
        spectrum = torch.cat([values.sort(descending=True).values, tail])
        kept = rank.kept_energy(spectrum).tolist()
        assert all(rank.retained(kept, k) <= 1 for k in (61, 62, 63, 64))


def energy_of(demands: list[Demand], ranks: list[int]) -> float:
    return math.fsum(
        float(d.values[:k].square().sum()) for d, k in zip(demands, ranks, strict=True)
    )


def bytes_of(demands: list[Demand], ranks: list[int]) -> int:
    return sum(d.bytes_per_rank * k for d, k in zip(demands, ranks, strict=True))


@st.composite
def files(draw: st.DrawFn, most: int = 6, longest: int = 12) -> list[Demand]:
    """Draw spectra of a few modules: decaying, flat, zero, with ties, of different costs."""
    demands = []
    for _ in range(draw(st.integers(1, most))):
        size = draw(st.integers(1, longest))
        number = st.sampled_from([0.0, 1e-6, 0.1, 0.5, 1.0, 1.0, 2.0, 30.0])
        values = sorted(draw(st.lists(number, min_size=size, max_size=size)), reverse=True)
        demands.append(Demand(columns(values), draw(st.sampled_from([640, 2000, 2560, 11000]))))
    return demands


@pytest.mark.lengthy
@examples(200)
@given(files(), st.sampled_from([*THRESHOLDS, 1.0]))
def test_file_allocation_reaches_the_energy_at_no_more_bytes_than_modules_alone(
    demands: list[Demand], energy: float
) -> None:
    """The energy is at least as required, and the bytes at most those of per_module."""
    ranks, alone = rank.per_file(demands, energy), rank.per_module(demands, energy)
    full = [len(d.values) for d in demands]
    assert all(1 <= k <= own for k, own in zip(ranks, full, strict=True))
    assert energy_of(demands, ranks) >= energy * energy_of(demands, full) * (1 - 1e-12)
    assert bytes_of(demands, ranks) <= bytes_of(demands, alone)


def every_choice(demands: list[Demand]) -> list[list[int]]:
    return [list(c) for c in itertools.product(*(range(1, len(d.values) + 1) for d in demands))]


@examples(100)
@given(files(most=3, longest=4), st.sampled_from(THRESHOLDS))
def test_file_allocation_is_within_one_rank_of_the_cheapest(
    demands: list[Demand], energy: float
) -> None:
    """Every choice for a tiny file is compared; with equal costs it is the cheapest."""
    wanted = energy * energy_of(demands, [len(d.values) for d in demands])
    fine = [c for c in every_choice(demands) if energy_of(demands, c) >= wanted]
    best = min(bytes_of(demands, c) for c in fine)
    found = bytes_of(demands, rank.per_file(demands, energy))
    assert best <= found <= best + max(d.bytes_per_rank for d in demands)
    if len({d.bytes_per_rank for d in demands}) == 1:
        assert found == best


@pytest.mark.lengthy
@examples(150)
@given(files(most=3, longest=4), st.integers(0, 80_000))
def test_size_allocation_fits_and_keeps_most_energy(demands: list[Demand], size: int) -> None:
    """It exceeds `size` only at rank 1; with equal costs no choice that fits keeps more energy."""
    ranks = rank.within_size(demands, size)
    least = [1] * len(demands)
    if bytes_of(demands, least) > size:
        assert ranks == least
        return
    assert bytes_of(demands, ranks) <= size
    fitting = [c for c in every_choice(demands) if bytes_of(demands, c) <= size]
    best = max(energy_of(demands, c) for c in fitting)
    found = energy_of(demands, ranks)
    if len({d.bytes_per_rank for d in demands}) == 1:
        assert found == pytest.approx(best)
    for at, demand in enumerate(demands):  # no further rank fits
        more = [k + (i == at) for i, k in enumerate(ranks)]
        if ranks[at] < len(demand.values) and bytes_of(demands, more) <= size:
            pytest.fail(f"module {at} could have one more rank")


@examples(100)
@given(files(), st.integers(1, 12), st.sampled_from(THRESHOLDS))
def test_a_limit_is_kept_and_other_modules_get_more_ranks(
    demands: list[Demand], limit: int, energy: float
) -> None:
    """No rank exceeds the limit; if the energy is possible within the limit, it is reached."""
    limited = [Demand(d.values, d.bytes_per_rank, limit) for d in demands]
    most = [min(limit, len(d.values)) for d in demands]
    wanted = energy * energy_of(demands, [len(d.values) for d in demands])
    for ranks in (rank.per_file(limited, energy), rank.per_module(limited, energy)):
        assert all(1 <= k <= m for k, m in zip(ranks, most, strict=True))
    if energy_of(demands, most) >= wanted:
        reached = energy_of(demands, rank.per_file(limited, energy))
        assert reached >= wanted * (1 - 1e-12)
    within = rank.within_size(limited, 10**9)
    assert within == most


@pytest.mark.lengthy
@examples(100)
@given(files(), st.sampled_from(THRESHOLDS), st.integers(0, 80_000))
def test_a_constant_rank_is_the_smallest_for_an_energy_and_the_largest_for_a_size(
    demands: list[Demand], energy: float, size: int
) -> None:
    """constant: one rank less misses the energy. constant_within_size: one more does not fit."""
    own = [len(d.values) for d in demands]
    wanted = energy * energy_of(demands, own)

    def given_all(k: int) -> list[int]:
        return [min(k, r) for r in own]

    k = rank.constant(demands, energy)
    assert energy_of(demands, given_all(k)) >= wanted * (1 - 1e-12)
    assert k == 1 or energy_of(demands, given_all(k - 1)) < wanted * (1 + 1e-12)
    k = rank.constant_within_size(demands, size)
    assert k == 1 or bytes_of(demands, given_all(k)) <= size
    assert k == max(own) or bytes_of(demands, given_all(k + 1)) > size


def balanced(demands: list[Demand]) -> list[Demand]:
    """Return the demands as `allocation: balanced` counts them."""
    return [Demand(rank.balance(d.values), d.bytes_per_rank) for d in demands]


def weighted_share(demands: list[Demand], ranks: list[int]) -> float:
    """Return the mean of the modules' shares of energy, weighted by the norms of their deltas."""
    norms = [float(d.values.norm()) for d in demands]
    kept = [rank.kept_energy(d.values).tolist() for d in demands]
    shares = [rank.retained(each, k) for each, k in zip(kept, ranks, strict=True)]
    total = math.fsum(norms)
    return math.fsum(n * s for n, s in zip(norms, shares, strict=True)) / total if total else 1.0


@pytest.mark.lengthy
@examples(200)
@given(files(), st.sampled_from([*THRESHOLDS, 1.0]))
def test_balanced_allocation_keeps_the_weighted_share_at_no_more_bytes_than_modules_alone(
    demands: list[Demand], energy: float
) -> None:
    """No rank is above the module's own, and the mean share is at least as required."""
    ranks = rank.per_file(balanced(demands), energy)
    own = [len(d.values) for d in demands]
    assert all(1 <= k <= most for k, most in zip(ranks, own, strict=True))
    assert weighted_share(demands, ranks) >= energy * (1 - 1e-12)
    assert bytes_of(demands, ranks) <= bytes_of(demands, rank.per_module(demands, energy))


@examples(100)
@given(files())
def test_balanced_allocation_takes_more_bytes_for_more_energy(demands: list[Demand]) -> None:
    """Within the bytes of one rank, since each choice may exceed the cheapest by one rank."""
    sizes = [bytes_of(demands, rank.per_file(balanced(demands), energy)) for energy in THRESHOLDS]
    slack = max(d.bytes_per_rank for d in demands)
    assert all(less <= more + slack for less, more in itertools.pairwise(sizes))


@examples(100)
@given(files(), st.integers(0, 80_000))
def test_balanced_allocation_fits_a_size(demands: list[Demand], size: int) -> None:
    """It exceeds the size only at rank 1."""
    ranks = rank.within_size(balanced(demands), size)
    assert bytes_of(demands, ranks) <= size or ranks == [1] * len(demands)


@examples(100)
@given(files(), st.sampled_from(THRESHOLDS))
def test_balanced_and_file_allocation_agree_on_modules_of_equal_energy(
    demands: list[Demand], energy: float
) -> None:
    """All weights are then equal. Rounding may exchange ranks of equal worth, at equal costs."""
    equal = [Demand(d.values / d.values.norm(), 640) for d in demands if d.values.norm() > 0]
    if equal:
        ranks, expected = rank.per_file(balanced(equal), energy), rank.per_file(equal, energy)
        more = sum(ranks) - sum(expected)
        assert abs(more) <= 1  # rounding may also put the sum just below the required energy
        if more == 0:
            assert energy_of(equal, ranks) == pytest.approx(energy_of(equal, expected))


def test_balanced_allocation_gives_a_weak_module_more_ranks() -> None:
    """Of a strong and a 100 times weaker module of one shape, `file` leaves the weak one rank 1."""
    values = 0.8 ** torch.arange(16, dtype=torch.float64)
    demands = [Demand(values, 100), Demand(values / 100, 100)]
    by_file, by_weight = rank.per_file(demands, 0.99), rank.per_file(balanced(demands), 0.99)
    assert by_file[1] == 1 < by_weight[1] < by_weight[0]


def test_ranks_of_equal_worth_are_taken_in_file_order() -> None:
    """So the same file always gives the same bytes."""
    demands = [Demand(columns([1.0, 1.0]), 100) for _ in range(4)]
    assert rank.within_size(demands, 600) == [2, 2, 1, 1]
