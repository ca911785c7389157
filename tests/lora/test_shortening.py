"""Ranks beyond the sides of the delta weight, compared with float64 SVDs of the full matrix."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lensd.lora import comparison, compress, fidelity, spectrum
from lensd.lora.parameters import Parameters
from lensd.lora.reading import flatten
from lensd.lora.shortening import form_delta, is_excessive, shorten
from tests.lora import making
from tests.lora.making import Made
from tests.support.suites import examples


@st.composite
def bombs(draw: st.DrawFn) -> Made:
    """Draw modules whose rank is up to 300 times a side of their delta weight."""
    out, width = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    rank = draw(st.integers(min(out, width) + 1, 300))
    kind, seed = (
        draw(st.sampled_from(("random", "deficient", "zero", "graded"))),
        draw(st.integers()),
    )
    up, down = making.factors(kind, out, width, rank, seed % 2**32)
    dtype = making.DTYPES[draw(st.sampled_from(("F16", "BF16", "F32", "F64")))]
    return Made(up.to(dtype), down.to(dtype), draw(st.sampled_from((None, 1.0, -3.0))))


@examples(80)
@given(bombs())
def test_short_factors_have_the_same_delta_weight(made: Made) -> None:
    """To the last digits of float64, and with its singular values."""
    up, down = flatten(made.up, made.down)
    short = shorten(up, down)
    assert not is_excessive(*short)
    full = making.product(up, down)
    allowed = 1e-14 * float(up.double().norm() * down.double().norm())
    assert float((short[0] @ short[1] - full).norm()) <= allowed
    expected = making.spectrum(full)
    found = spectrum.core(*short).values
    top = float(expected[0])
    assert torch.allclose(found.square(), expected.square(), rtol=1e-9, atol=1e-11 * top**2)


def test_factors_of_a_possible_rank_stay_as_they_are() -> None:
    """The common case: nothing is computed."""
    up, down = torch.randn(8, 8), torch.randn(8, 9)
    assert shorten(up, down)[0] is up
    assert shorten(up, down)[1] is down


def test_the_delta_weight_is_formed_piece_by_piece() -> None:
    """Its pieces add up, also where the last one is smaller, and for stacks of modules."""
    up, down = torch.randn(2, 3, 700_001), torch.randn(2, 700_001, 2)
    assert torch.allclose(form_delta(up, down), up.double() @ down.double(), rtol=1e-11)


@examples(60)
@given(bombs(), st.sampled_from(("rank", "int8", "ultra")), st.sampled_from((0.5, 0.99, 1.0)))
def test_an_output_has_a_possible_rank_and_the_planned_error(
    made: Made, mode: str, energy: float
) -> None:
    """No rank is raised. In int8 and by energy it is at most min(m, n)."""
    tensors = making.kohya("lora_unet_a", made)
    p = Parameters(mode=mode, energy=energy, allocation="module")
    [module] = making.plan_of(tensors, p).modules
    pair = making.pair_of(tensors, module.module.up, module.module.down)
    reduced = compress.reduce(module, *pair)
    sides = min(module.module.out_features, module.module.in_features)
    assert module.rank <= (sides if module.encoding == "I8" or mode == "rank" else made.rank)
    before, after = made.delta, reduced.scale * making.product(reduced.up.mT, reduced.down)
    if not before.any():
        assert not after.any()
        return
    planned = math.sqrt(max(0.0, 1 - module.retained)) * float(before.norm())
    noise = math.sqrt(reduced.squared_error)
    assert float((before - after).norm()) <= planned + noise + 1e-6 * float(before.norm())


def test_norms_of_a_large_rank_are_those_of_the_delta_weight() -> None:
    """Also between factors of different ranks, and for rounded factors."""
    up, down = torch.randn(4, 8192), torch.randn(8192, 5)
    other_up, other_down = torch.randn(4, 3), torch.randn(3, 5)
    full, other = making.product(up, down), making.product(other_up, other_down)
    assert fidelity.squared_norm(up, down) == pytest.approx(float(full.square().sum()), rel=1e-12)
    inner = fidelity.inner(up, down, other_up, other_down)
    assert inner == pytest.approx(float((full * other).sum()), rel=1e-6)
    found = comparison.distance((up, down, 1.0), (other_up, other_down, 2.0)).squared_error
    assert found == pytest.approx(float((full - 2 * other).square().sum()), rel=1e-9)
    rounded_up, rounded_down = up.half().float(), down.half().float()
    expected = float((full - making.product(rounded_up, rounded_down)).square().sum())
    measured = fidelity.squared_rounding(up, down, rounded_up, rounded_down)
    assert measured == pytest.approx(expected, rel=1e-9)
