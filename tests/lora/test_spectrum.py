"""lensd.lora.spectrum, compared with a float64 SVD of the full delta weight."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given

from lensd.lora import spectrum
from tests.lora import making
from tests.lora.making import Made
from tests.support.suites import examples


def flat(made: Made) -> tuple[torch.Tensor, torch.Tensor]:
    return made.up.flatten(1), made.down.flatten(1)


@examples(80)
@given(making.modules())
def test_singular_values_equal_those_of_the_full_matrix(made: Made) -> None:
    """The values of `core` are the delta weight's, with zeros if the rank exceeds a dimension."""
    full = making.product(made.up, made.down)
    expected = torch.zeros(made.rank, dtype=torch.float64)
    values = making.spectrum(full)[: made.rank]
    expected[: len(values)] = values
    found = spectrum.core(*flat(made)).values
    # Gram matrices resolve squares to 1e-16 of the largest, so small values only to 1e-8 of it.
    assert torch.allclose(
        found.square(), expected.square(), rtol=1e-9, atol=1e-11 * float(expected[0])
    )
    assert bool((found.diff() <= 0).all())


@examples(80)
@given(making.modules())
def test_truncation_is_the_best_approximation_of_its_rank(made: Made) -> None:
    """At every rank its error is the tail of the spectrum (Eckart and Young)."""
    up, down = (t.double() for t in flat(made))
    full = up @ down
    values, core = making.spectrum(full), spectrum.core(up, down)
    for rank in range(1, made.rank + 1):
        left, right = spectrum.truncation(core, rank)
        assert left.shape == (made.rank, rank)
        assert right.shape == (rank, made.rank)
        error = float((full - (up @ left) @ (right @ down)).norm())
        allowed = 2e-7 * float(full.norm())
        assert error == pytest.approx(making.tail(values, rank), rel=1e-9, abs=allowed)


@examples(40)
@given(making.modules())
def test_truncation_splits_singular_values_evenly(made: Made) -> None:
    """Column i of the left factor and row i of the right factor both have the norm sqrt(s_i)."""
    up, down = (t.double() for t in flat(made))
    core = spectrum.core(up, down)
    clear = core.values > 1e-5 * core.values[0]
    left, right = spectrum.truncation(core, made.rank)
    expected = core.values[clear].sqrt()
    assert torch.allclose((up @ left).norm(dim=0)[clear], expected, rtol=1e-3)
    assert torch.allclose((right @ down).norm(dim=1)[clear], expected, rtol=1e-3)


def test_an_untrained_module_has_a_spectrum_of_zeros() -> None:
    """If `up` is zero, all singular values and both factors are exactly zero."""
    core = spectrum.core(torch.zeros(6, 4), torch.randn(4, 5))
    assert core.values.tolist() == [0.0] * 4
    for half in spectrum.truncation(core, 4):
        assert not half.any()


def test_a_product_far_smaller_than_its_factors_keeps_its_digits() -> None:
    """In a gauge of condition 1e6, Gram matrices alone would leave 4 digits of the energy."""
    random = torch.Generator().manual_seed(5)
    a, b = (torch.randn(8, 8, generator=random, dtype=torch.float64) for _ in range(2))
    left, right = torch.linalg.qr(a).Q, torch.linalg.qr(b).Q
    size = torch.logspace(-3, 3, 8, dtype=torch.float64)
    up = torch.randn(30, 8, generator=random, dtype=torch.float64) @ (left * size @ right)
    down = (right.T / size @ left.T) @ torch.randn(8, 20, generator=random, dtype=torch.float64)
    expected = making.spectrum(up @ down)[:8]
    assert torch.allclose(spectrum.core(up, down).values, expected, rtol=1e-8)


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1.0, 1e12])
def test_values_scale_with_the_factors(scale: float) -> None:
    """There is no absolute threshold: tiny and huge delta weights are resolved equally well."""
    up, down = making.factors("decaying", 12, 10, 6, 3)
    expected = spectrum.core(up, down).values * scale
    assert torch.allclose(spectrum.core(up * scale, down).values, expected, rtol=1e-9, atol=0)


def test_square_root_of_a_singular_gram_matrix() -> None:
    """square_root does not need positive pivots."""
    columns = torch.randn(9, 2, dtype=torch.float64) @ torch.randn(2, 5, dtype=torch.float64)
    gram = columns.T @ columns
    root = spectrum.square_root(gram)
    assert torch.allclose(root @ root.T, gram, atol=1e-12)
    zero = torch.zeros(3, 3, dtype=torch.float64)
    assert not spectrum.square_root(zero).any()
