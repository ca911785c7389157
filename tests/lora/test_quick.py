"""lensd.lora.spectrum.quick_core: certain results have the ranks and energies of float64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lensd.lora import rank, reading, spectrum
from tests.lora import making
from tests.support.suites import examples

RANK = 72
THRESHOLDS = (0.9, 0.95, 0.99, 0.999, 0.99999)


def stack(kind: str, seeds: list[int], spread: float = 3.0) -> tuple[Tensor, Tensor]:
    """Return up [b, 160, 72] and down [b, 72, 200], float16 numbers in float32.

    The columns of up decrease by a factor of e^-spread.
    """
    pairs = [making.factors(kind, 160, 200, RANK, seed) for seed in seeds]
    fall = torch.exp(-torch.arange(RANK, dtype=torch.float64) * spread / RANK)
    up, down = (torch.stack(factors) for factors in zip(*pairs, strict=True))
    return (up * fall).half().float(), down.half().float()


@pytest.mark.lengthy
@examples(25)
@given(
    st.sampled_from(making.KINDS),
    st.lists(st.integers(0, 2**32), min_size=1, max_size=3),
    st.floats(0.5, 12),
    st.sampled_from(THRESHOLDS),
)
def test_certain_results_are_those_of_float64(
    kind: str, seeds: list[int], spread: float, energy: float
) -> None:
    """The rank is the same; energy, retained share and truncation are as exact as documented."""
    up, down = stack(kind, seeds, spread)
    quick, certain = spectrum.quick_core(up, down, energy)
    for at in certain.nonzero().flatten().tolist():
        full = making.product(up[at], down[at])
        true = making.spectrum(full)
        k = rank.smallest_rank(true, energy)
        values = quick.values[at]
        assert rank.smallest_rank(values, energy) == k
        whole = 3e-8 * float(quick.cancellation[at])
        assert float(values.square().sum()) == pytest.approx(float(full.square().sum()), rel=whole)
        share, expected = (rank.retained(rank.kept_energy(v).tolist(), k) for v in (values, true))
        assert share == pytest.approx(expected, abs=1e-5)
        left, right = spectrum.truncation(spectrum.Core(*(t[at] for t in quick)), k)
        kept = (up[at].double() @ left.double()) @ (right.double() @ down[at].double())
        error = float((full - kept).norm())
        rounding = 3e-6 * float(full.norm())
        assert error == pytest.approx(making.tail(true, k), rel=1e-4, abs=rounding)


@pytest.mark.lengthy
def test_typical_spectra_are_certain() -> None:
    """Nearly all decreasing spectra are; otherwise float32 would save no time."""
    up, down = stack("random", list(range(40)))
    assert int(spectrum.quick_core(up, down, 0.99)[1].sum()) >= 36


def test_a_doubtful_rank_is_not_certain() -> None:
    """The threshold is equal to a cumulative energy within float32's precision."""
    up, down = stack("random", [1])
    squares = making.spectrum(making.product(up[0], down[0])).square()
    shares = squares.cumsum(0) / squares.sum()
    for k in (10, 30, 50):
        for off in (-3e-7, 0.0, 3e-7):
            assert not spectrum.quick_core(up, down, float(shares[k]) + off)[1].any()
        assert spectrum.quick_core(up, down, float(shares[k : k + 2].mean()))[1].all()


@pytest.mark.parametrize("kind", ["zero", "gauge", "deficient"])
def test_spectra_that_float32_cannot_resolve_are_not_certain(kind: str) -> None:
    """Zeros, factors far larger than their product, factors of deficient rank."""
    up, down = stack(kind, [1, 2], spread=0.5)
    assert not spectrum.quick_core(up * 0 if kind == "zero" else up, down, 0.99999)[1].any()


@pytest.mark.lengthy
@examples(25)
@given(st.lists(st.sampled_from(making.KINDS), min_size=1, max_size=5), st.integers(0, 2**32))
def test_modules_in_a_batch_get_the_ranks_that_they_get_alone(kinds: list[str], seed: int) -> None:
    """The other modules may have zeros, NaN, or factors that only float64 resolves."""
    parts = [stack(kind, [seed + at]) for at, kind in enumerate(kinds)]
    up, down = (torch.cat(t) for t in zip(*parts, strict=True))
    broken = up.clone()
    broken[0, 0, 0] = math.nan
    module = making.read(making.kohya("lora_unet_x", making.Made(up[0], down[0], 8.0)))[0].modules[
        0
    ]
    count = len(kinds)
    for factors in (up, broken):
        found = reading.read_modules([module] * count, factors, down, [8.0] * count, 0.99)
        for at, one in enumerate(found):
            alone = reading.read_module(module, factors[at], down[at], 8.0)
            assert (one is None) == (alone is None) == bool(factors[at].isnan().any())
            if one is None or alone is None:
                continue
            ranks = [rank.smallest_rank(r.values, 0.99) for r in (one, alone)]
            assert ranks[0] == ranks[1]
            assert one.core is not None
            whole = 3e-8 * max(1.0, float(one.core.cancellation))
            assert one.energy == pytest.approx(alone.energy, rel=whole)
            assert one.largest == alone.largest
            assert one.core.left.shape[1] >= ranks[0]
