"""lensd.lora.fidelity, checked with full float64 matrices and element-wise sums in numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lensd.lora import fidelity
from lensd.lora.fidelity import ElementError
from tests.lora import making
from tests.support.suites import examples


@st.composite
def pairs(draw: st.DrawFn) -> tuple[torch.Tensor, ...]:
    """Draw up, down, other up, other down for one shape of delta weight and two ranks."""
    out, width = draw(st.integers(1, 20)), draw(st.integers(1, 20))
    kinds, seeds = st.sampled_from(making.KINDS), st.integers(0, 2**32)
    made: list[torch.Tensor] = []
    for _ in range(2):
        made += making.factors(draw(kinds), out, width, draw(st.integers(1, 12)), draw(seeds))
    return tuple(made)


@examples(60)
@given(pairs())
def test_norms_and_distances_are_those_of_the_dense_matrices(
    pair: tuple[torch.Tensor, ...],
) -> None:
    """squared_norm, inner and squared_distance are correct for factors of different ranks."""
    up, down, other_up, other_down = pair
    a, b = up @ down, other_up @ other_down
    # Cancellation makes the rounding error relative to the factors, not to their product.
    size = float(up.norm() * down.norm() + other_up.norm() * other_down.norm()) ** 2

    def close(expected: float) -> object:
        return pytest.approx(expected, rel=1e-9, abs=1e-13 * size)

    assert fidelity.squared_norm(up, down) == close(float(a.square().sum()))
    assert fidelity.inner(*pair) == close(float((a * b).sum()))
    found = fidelity.squared_distance(*pair)
    assert found == close(float((a - b).square().sum()))
    assert fidelity.squared_distance(up, down, up, down) <= 1e-13 * size


@examples(60)
@given(making.modules(), st.sampled_from([1e-2, 1e-5, 1e-8]), st.integers(0, 2**32))
def test_squared_rounding_resolves_what_a_difference_of_norms_cannot(
    made: making.Made, size: float, seed: int
) -> None:
    """An error of 1e-8 of the factors is exact to six digits."""
    random = torch.Generator().manual_seed(seed)
    up, down = made.up.double().flatten(1), made.down.double().flatten(1)
    noisy = [
        t * (1 + size * torch.randn(t.shape, generator=random, dtype=torch.float64))
        for t in (up, down)
    ]
    expected = (up - noisy[0]) @ down + noisy[0] @ (down - noisy[1])
    found = fidelity.squared_rounding(up, down, *noisy)
    allowed = 1e-12 * (size * float(up.norm() * down.norm())) ** 2
    assert found == pytest.approx(float(expected.square().sum()), rel=1e-6, abs=allowed)


@examples(40)
@given(st.lists(st.integers(1, 400), min_size=1, max_size=4), st.integers(0, 2**32))
def test_element_errors_are_the_textbook_sums_over_all_tensors(sizes: list[int], seed: int) -> None:
    """mse, mae and snr_db of several merged tensors equal those that numpy computes."""
    rng = np.random.default_rng(seed)
    exact = [rng.normal(size=n) for n in sizes]
    decoded = [np.round(x * 20) / 20 for x in exact]
    total = ElementError()
    for x, y in zip(exact, decoded, strict=True):
        pair = torch.from_numpy(x)[None], torch.from_numpy(y)[None]
        total.merge(*fidelity.element_errors([pair], [x.size]))
    everything, rounded = np.concatenate(exact), np.concatenate(decoded)
    noise = everything - rounded
    assert total.count == everything.size
    assert total.mse == pytest.approx(float(np.mean(noise**2)))
    assert total.mae == pytest.approx(float(np.mean(np.abs(noise))))
    expected = 10 * math.log10(float(np.sum(everything**2) / np.sum(noise**2)))
    assert total.snr_db == pytest.approx(expected)


def test_numbers_without_elements_are_none() -> None:
    """They are not NaN and not infinity, which the log could not write as JSON."""
    nothing = ElementError()
    assert (nothing.mse, nothing.mae, nothing.snr_db) == (None, None, None)
    (exact,) = fidelity.element_errors([(torch.ones(1, 3), torch.ones(1, 3))], [3])
    assert (exact.mse, exact.mae, exact.snr_db) == (0.0, 0.0, None)
    assert fidelity.decibels(0.0, 1.0) is None
    assert fidelity.decibels(1000.0, 1.0) == pytest.approx(30.0)
