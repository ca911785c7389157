"""The kernels compute what the Python functions compute, for every shape, dtype and layout."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from lensd.lora import int8
from lensd.lora._kernels import calls, loading
from lensd.lora.int8 import Factors

pytestmark = pytest.mark.skipif(loading.library() is None, reason="no kernels were compiled")

DTYPES = st.sampled_from([torch.float16, torch.bfloat16, torch.float32])
RANKS = st.one_of(st.integers(1, 70), st.integers(1, 512))
LENGTHS = st.one_of(st.integers(1, 70), st.integers(250, 800))
SPECIAL = [math.nan, math.inf, -math.inf, 6e-8, 1e-40]


def factors(seed: int, b: int, rank: int, longer: int, dtype: torch.dtype, *, up: bool) -> Tensor:
    """Return [b, rank, longer], stored as [b, longer, rank] if `up`."""
    shape = (b, longer, rank) if up else (b, rank, longer)
    found = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return found.mT if up else found


def require_close(found: Tensor | None, expected: Tensor, tolerance: float) -> None:
    assert found is not None
    assert found.shape == expected.shape
    assert (found - expected).norm() <= tolerance * expected.norm()


SHAPES = given(
    seed=st.integers(0, 99),
    b=st.integers(1, 3),
    rank=RANKS,
    longer=LENGTHS,
    dtype=DTYPES,
    up=st.booleans(),
)


@SHAPES
@example(seed=0, b=1, rank=512, longer=257, dtype=torch.float16, up=True)
def test_gram(seed: int, b: int, rank: int, longer: int, dtype: torch.dtype, *, up: bool) -> None:
    """In float64; if quick, with a diagonal in float64, and symmetric."""
    wide = factors(seed, b, rank, longer, dtype, up=up)
    expected = wide.double() @ wide.double().mT
    require_close(calls.gram(wide, exact=True), expected, 1e-14)
    quick = calls.gram(wide, exact=False)
    require_close(quick, expected, 1e-6)
    assert quick is not None
    assert torch.equal(quick, quick.mT)
    diagonal = expected.diagonal(dim1=-2, dim2=-1)
    assert torch.allclose(quick.diagonal(dim1=-2, dim2=-1), diagonal, rtol=1e-13, atol=0)


@SHAPES
def test_cross_and_product(
    seed: int, b: int, rank: int, longer: int, dtype: torch.dtype, *, up: bool
) -> None:
    """A stored factor with an int8 factor, and with a small matrix."""
    wide = factors(seed, b, rank, longer, dtype, up=up)
    count = 1 + seed % 40
    encoded = factors(seed + 1, b, count, longer, torch.float32, up=up).mul(30).to(torch.int8)
    expected = wide.double() @ encoded.double().mT
    require_close(calls.cross(wide, encoded, exact=True), expected, 1e-14)
    require_close(calls.cross(wide, encoded, exact=False), expected, 1e-6)
    squares = encoded.double() @ encoded.double().mT
    require_close(calls.gram(encoded, exact=False), squares, 0.0)
    small = factors(seed + 2, b, count, rank, torch.float32, up=False)
    product = calls.product(small, wide)
    require_close(product, small.double() @ wide.double(), 1e-6)


@given(
    seed=st.integers(0, 99),
    dtype=DTYPES,
    shape=st.tuples(st.integers(1, 3), st.integers(1, 50), st.integers(1, 50)),
    special=st.lists(st.sampled_from(SPECIAL), max_size=3),
)
def test_largest(
    seed: int, dtype: torch.dtype, shape: tuple[int, int, int], special: list[float]
) -> None:
    """NaN wins over infinity, and subnormal numbers are not lost."""
    numbers = factors(seed, *shape, dtype, up=False) * (0 if seed % 2 else 1)
    for at, number in enumerate(special):
        numbers.flatten()[(seed * 7919 + at * 31) % numbers.numel()] = number
    expected = numbers.double().abs().amax((-2, -1))
    found = calls.largest(numbers)
    assert found is not None
    assert torch.equal(found.nan_to_num(-1, math.inf), expected.nan_to_num(-1, math.inf))


@given(seed=st.integers(0, 99), dtype=DTYPES, number=st.sampled_from(SPECIAL), up=st.booleans())
def test_what_is_not_finite_stays_visible(
    seed: int, dtype: torch.dtype, number: float, *, up: bool
) -> None:
    """A Gram matrix of NaN or infinity is not finite where the element counts."""
    wide = factors(seed, 1, 5, 300, dtype, up=up)
    wide[0, 3, seed] = number
    for exact in (True, False):
        found = calls.gram(wide, exact=exact)
        assert found is not None
        assert bool(found[0, 3, 3].isfinite()) == math.isfinite(number)


@given(
    seed=st.integers(0, 99),
    rank=st.integers(1, 60),
    m=st.integers(60, 300),
    n=st.integers(60, 600),
)
def test_int8(seed: int, rank: int, m: int, n: int) -> None:
    """Rounded elements, noise and element errors are those of Python's functions."""
    exact = Factors(
        factors(seed, 2, rank, m, torch.float32, up=True).mT,
        factors(seed + 1, 2, rank, n, torch.float32, up=False),
    )
    scales = torch.tensor([0.02, 0.07], dtype=torch.float64)
    native = int8._round_factors(exact, scales)
    python = Factors(*(int8._round(t, scales) for t in exact))
    for a, b in zip(native, python, strict=True):
        assert a.dtype == torch.int8
        assert torch.equal(a.float(), b)
    for ours, theirs in zip(
        int8._measure_quantized(exact, native, scales, [rank, rank]),
        int8._measure_quantized(exact, python, scales, [rank, rank]),
        strict=True,
    ):
        assert ours.squared_noise == pytest.approx(theirs.squared_noise, rel=1e-4)
        assert ours.elements.count == theirs.elements.count
        for name in ("signal", "squared", "absolute"):
            assert getattr(ours.elements, name) == pytest.approx(
                getattr(theirs.elements, name), rel=1e-5
            )


@given(
    seed=st.integers(0, 99),
    rank=st.integers(1, 40),
    m=st.integers(1, 200),
    n=st.integers(1, 600),
    share=st.floats(0, 2),
)
def test_largest_product(seed: int, rank: int, m: int, n: int, share: float) -> None:
    """It is exact where it is above `enough`; int8 factors give the exact number."""
    up = factors(seed, 1, rank, m, torch.float32, up=True)[0].T
    down = factors(seed + 1, 1, rank, n, torch.float32, up=False)[0]
    for a, b in ((up, down), (up.mul(30).to(torch.int8), down.mul(30).to(torch.int8))):
        largest = float((a.double() @ b.double()).abs().max())
        pair = torch.stack([a, a]), torch.stack([b, b])
        both = calls.largest_products(*pair, [0.0, share * largest])
        assert both is not None
        exact, found = both
        assert exact == pytest.approx(largest, rel=1e-5)
        if found > share * largest:
            assert found == pytest.approx(largest, rel=1e-5)
        else:
            assert largest <= share * largest * (1 + 1e-5)


def test_what_the_kernels_cannot_take_is_refused() -> None:
    """Gaps between rows, float64, rank above 512 and empty stacks; sizes that do not fit."""
    wide = torch.randn(2, 8, 40)
    assert calls.gram(wide[:, :, ::2], exact=True) is None
    assert calls.gram(wide.double(), exact=True) is None
    assert calls.gram(torch.randn(1, 513, 600), exact=True) is None
    assert calls.gram(wide[:0], exact=True) is None
    assert calls.largest(wide[:, ::2]) is None
    for wrong in (
        lambda: calls.cross(wide, torch.randn(2, 8, 41), exact=True),
        lambda: calls.product(torch.randn(2, 3, 9), wide),
        lambda: calls.round_to_int8(wide, torch.ones(3)),
        lambda: calls.rounding(wide, wide.to(torch.int8)[:, :7], torch.ones(2)),
    ):
        with pytest.raises(ValueError, match="do not fit"):
            wrong()


def test_results_are_the_same_bits_in_every_run_and_thread() -> None:
    """Each thread has its own memory, and nothing depends on where tensors lie."""
    wide = factors(1, 3, 100, 700, torch.float16, up=True)
    small = factors(2, 3, 20, 100, torch.float32, up=False)

    def compute(_: int) -> list[Tensor]:
        copy = wide.mT.clone().mT
        product = calls.product(small, copy)
        assert product is not None
        found = calls.gram(copy, exact=False), calls.gram(copy, exact=True), product
        return [t for t in found if t is not None]

    with ThreadPoolExecutor(4) as pool:
        first, *others = pool.map(compute, range(12))
    assert all(torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True))
