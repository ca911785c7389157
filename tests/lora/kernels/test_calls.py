"""The kernels compute what the Python functions compute, for every shape, dtype and layout."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from operator import itemgetter

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from lensd.lora import float8, int8
from lensd.lora._kernels import calls, loading
from lensd.lora.int8 import Factors
from tests.support.suites import examples

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
    dtype=DTYPES,
    rank=st.one_of(st.integers(1, 40), st.integers(1, 150)),
    sides=st.tuples(st.integers(1, 150), st.integers(1, 300)),
    size=st.sampled_from([1e-6, 0.1, 10.0]),
    full=st.booleans(),
)
@example(seed=1, dtype=torch.float16, rank=512, sides=(1, 1), size=0.1, full=True)
@example(seed=2, dtype=torch.float16, rank=5, sides=(300, 300), size=0.0, full=False)
@example(seed=1, dtype=torch.float32, rank=263, sides=(1, 600), size=0.1, full=True)
@example(seed=5, dtype=torch.float16, rank=21, sides=(3, 21), size=1e-06, full=False)
@example(seed=0, dtype=torch.float16, rank=2, sides=(2, 1), size=1e-06, full=True)
@examples(40)
def test_int8(
    seed: int, dtype: torch.dtype, rank: int, sides: tuple[int, int], size: float, *, full: bool
) -> None:
    """The kernels choose the step that Python's functions choose, and measure what they did.

    The stored factors are `size` at most, and an outlier makes some products exceed the guard.
    """
    m, n = (rank + side for side in sides)
    up = factors(seed, 2, rank, m, torch.float32, up=True).mT * size
    up[1] *= 40 * torch.rand(m, 1, generator=torch.Generator().manual_seed(seed)) ** 30
    up[1, 0] = size  # a largest element below 1e-15 would be left to Python
    up, down = up.to(dtype), factors(seed + 1, 2, rank, n, dtype, up=False)
    counts = [rank, rank] if full else [1 + seed % rank, (rank + 1) // 2]
    left, right = (factors(seed + i, 2, max(counts), rank, torch.float32, up=True) for i in (2, 3))
    left, right = left.mT, right.mT
    scales = [0.3, 0.0]
    if full:  # the delta of the first module is 0.3 times the product of the stored factors
        left[0], right[0] = 0.3 * torch.eye(rank), torch.eye(rank)
    for at, count in enumerate(counts):
        left[at, :, count:], right[at, :, count:] = 0, 0
    exact = bool(seed % 2)
    found = quantize(
        Factors(up, down), (left, right), counts, scales if full else [0.0, 0.0], exact=exact
    )
    assert found is not None
    for at, count in enumerate(counts):
        f, g = up[at].double() @ left[at].double(), right[at].double().T @ down[at].double()
        f, g = f[:, :count], g[:count]
        others = [(0.3 * up[at].double(), down[at].double())] if full and not at else []
        python, ours = int8.quantize(f, g, *others), found[at]
        assert ours.scale == pytest.approx(python.scale, rel=2e-3)
        up_i8, down_i8 = ours.up.view(m, count).double(), ours.down.view(count, n).double()
        data = b"".join(t.numpy().tobytes() for t in (ours.down, ours.up))
        assert b"".join(ours.data) == data
        delta, rounded = f @ g, up_i8 @ down_i8
        assert float(rounded.abs().max()) <= int8.GUARD
        noise = float((delta - ours.scale**2 * rounded).square().sum())
        assert ours.squared_noise == pytest.approx(
            noise, rel=1e-4, abs=1e-9 * float(delta.norm()) ** 2
        )
        candidates = [(f @ r, r.T @ g) for r in int8.rotations(count)] + others
        signal, squared, absolute = element_errors(candidates, ours)
        assert ours.signal == pytest.approx(signal, rel=1e-3)
        # Few elements may all lie near a level: then float32 shows in their errors.
        unsure = 1e-7 * math.sqrt(signal)
        assert ours.squared == pytest.approx(squared, rel=1e-3, abs=2 * unsure * absolute)
        assert ours.absolute == pytest.approx(
            absolute, rel=1e-3, abs=unsure * math.sqrt(count * (m + n))
        )
        stored = up[at].double() @ down[at].double()
        lost = 1e-5 * float(stored.norm() * rounded.norm())
        inner = float((stored * rounded).sum())
        assert ours.inner == pytest.approx(inner, abs=1e-7 * lost if exact else lost)
        assert ours.squared_norm == pytest.approx(float(rounded.square().sum()), rel=1e-12)


DECODED = st.sampled_from([torch.float16, torch.bfloat16, float8.FLOAT8])


@given(
    seed=st.integers(0, 99),
    dtype=DTYPES,
    to=DECODED,
    rank=st.one_of(st.integers(1, 40), st.integers(1, 150)),
    sides=st.tuples(st.integers(0, 150), st.integers(0, 300)),
    size=st.sampled_from([0.0, 1e-8, 1e-3, 0.1, 10.0, 3e3]),
    full=st.booleans(),
)
@example(
    seed=1, dtype=torch.float16, to=float8.FLOAT8, rank=300, sides=(1, 600), size=0.1, full=True
)
@example(seed=3, dtype=torch.float32, to=float8.FLOAT8, rank=1, sides=(0, 0), size=0.1, full=False)
def test_rounding_to_floats(
    seed: int,
    dtype: torch.dtype,
    to: torch.dtype,
    rank: int,
    sides: tuple[int, int],
    size: float,
    *,
    full: bool,
) -> None:
    """The error is not above that of Python's functions, and what is measured is true.

    At the full rank, the stored factors of the first module are the last candidate for float8, and
    the only one for 16 bits.
    """
    m, n = (rank + side for side in sides)
    up = (factors(seed, 2, rank, m, torch.float32, up=True).mT * size).to(dtype)
    down = factors(seed + 1, 2, rank, n, dtype, up=False)
    if seed % 3 == 0:  # float8 has the numbers of the first module
        up, down = (t.to(float8.FLOAT8).to(dtype) for t in (up, down))
    counts = [rank, rank] if full else [1 + seed % rank, (rank + 1) // 2]
    left, right = (factors(seed + i, 2, max(counts), rank, torch.float32, up=True) for i in (2, 3))
    left, right = left.mT / rank**0.5, right.mT / rank**0.5
    gains = [(0.5, 0.25) if full else (0.0, 0.0), (0.0, 0.0)]
    if full:
        left[0], right[0] = torch.eye(rank) / 2, torch.eye(rank) / 4
    rotations, exact = [torch.stack(int8.rotations(k)[1:]).float() for k in counts], bool(seed % 2)
    truncations = calls.Truncations(left, right, counts, rotations, gains, [exact] * 2)
    found = calls.round_floats(up, down, truncations, to)
    assert found is not None
    for at, count in enumerate(counts):
        f = (up[at].double() @ left[at].double())[:, :count]
        g = (right[at].double().T @ down[at].double())[:count]
        require_rounded(found[at], f, g, to)
        rounded = decoded(found[at], m, count, n)
        product = rounded[0] @ rounded[1]
        stored = up[at].double() @ down[at].double()
        scale = float(up[at].double().norm() * down[at].double().norm() * product.norm())
        inner = float((stored * product).sum())
        assert found[at].inner == pytest.approx(inner, abs=(1e-13 if exact else 1e-6) * scale)
        norm = float(rounded[0].norm() * rounded[1].norm()) ** 2
        squared = float(product.square().sum())
        assert found[at].squared_norm == pytest.approx(
            squared, abs=(1e-13 if exact else 1e-6) * norm
        )


def decoded(found: calls.Quantized, m: int, count: int, n: int) -> tuple[Tensor, Tensor]:
    return found.up.view(m, count).double(), found.down.view(count, n).double()


def require_rounded(found: calls.Quantized, up: Tensor, down: Tensor, to: torch.dtype) -> None:
    """Check the rounding of up [m, k] @ down [k, n] against Python's, and its measures."""
    count, m, n = len(down), len(up), down.shape[1]
    rounded = decoded(found, m, count, n)
    delta, tiny = up @ down, 1e-9 * float(up.norm() * down.norm()) ** 2
    noise = float((delta - rounded[0] @ rounded[1]).square().sum())
    # Where a delta weight is lost, the factors of the output may be much larger than the exact
    # ones, and a sum in float32 of products that cancel is less exact. The engine then rejects it.
    is_lost = noise > float((delta / 2).square().sum())
    assert found.squared_noise == pytest.approx(noise, rel=0.1 if is_lost else 2e-3, abs=tiny)
    if to == float8.FLOAT8:
        wanted = float8.round_factors(up.float(), down.float()).squared_noise
        few = 4 / math.sqrt(m * n)  # with few elements, a tie that is broken otherwise counts
        assert noise <= wanted * (1.02 + few) + tiny
        return
    for exact, got in ((up, rounded[0]), (down, rounded[1])):
        nearest = exact.float().to(to).double()
        lost = 1e-6 * float(exact.norm()) * count**0.5
        assert float((got - exact).norm()) <= 1.001 * float((nearest - exact).norm()) + lost


def test_float8_has_its_numbers_in_every_encoding() -> None:
    """All 256 codes are read as torch reads them; NaN stays NaN."""
    codes = torch.arange(256, dtype=torch.uint8).view(float8.FLOAT8)
    found = calls.product(torch.ones(1, 1, 1), codes.view(1, 1, 256))
    assert found is not None
    assert torch.equal(found.flatten().nan_to_num(-1), codes.float().nan_to_num(-1))


def element_errors(
    candidates: list[tuple[Tensor, Tensor]], found: calls.Quantized
) -> tuple[float, float, float]:
    """Sums over the balanced factors that were rounded: of squares, squared and absolute errors.

    Several gauges may have the same step: those that fit best are the ones that were rounded.
    """
    errors = []
    for up, down in candidates:
        largest = float(up.abs().max()), float(down.abs().max())
        balance = math.sqrt(largest[1] / largest[0]) if all(largest) else 1.0
        exact = torch.cat([(up * balance).flatten(), (down / balance).flatten()])
        rounded = torch.cat([found.up.flatten(), found.down.flatten()]) * found.scale
        error = exact - rounded
        sums = exact.square().sum(), error.square().sum(), error.abs().sum()
        errors.append((float(sums[0]), float(sums[1]), float(sums[2])))
    return min(errors, key=itemgetter(1))


def quantize(
    stored: Factors,
    halves: tuple[Tensor, Tensor],
    counts: list[int],
    scales: list[float],
    *,
    exact: bool,
) -> list[calls.Quantized] | None:
    """Call the kernel with the rotations and limits of `int8`."""
    rotations = [torch.stack(int8.rotations(k)[1:]).float() for k in counts]
    limits = int8.GUARD, int8.SLACK
    exactly = [exact] * len(counts)
    gains = [(scale, 1.0) for scale in scales]
    to = calls.Truncations(*halves, counts, rotations, gains, exactly)
    return calls.quantize(*stored, to, limits)


def test_numbers_that_float32_cannot_hold_are_left_to_python() -> None:
    """The largest elements of the factors must be between 1e-15 and 1e15, or zero."""
    up, down = torch.randn(1, 30, 4), torch.randn(1, 4, 30)
    halves = torch.eye(4)[None], torch.eye(4)[None]
    for size in (1e-20, 1e20, math.inf, math.nan):
        stored = Factors(up * size, down)
        assert quantize(stored, halves, [4], [0.0], exact=True) is None


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
        lambda: quantize(
            Factors(wide.mT.contiguous(), wide), (wide, wide), [9, 9], [0.0] * 2, exact=True
        ),
    ):
        with pytest.raises(ValueError, match="do not fit"):
            wrong()


def test_results_are_the_same_bits_in_every_run_and_thread() -> None:
    """Each thread has its own memory, and nothing depends on where tensors lie."""
    wide = factors(1, 3, 100, 700, torch.float16, up=True)
    small = factors(2, 3, 20, 100, torch.float32, up=False)
    down = factors(3, 3, 100, 500, torch.float16, up=False)
    halves = (small.mT.contiguous(),) * 2
    rotations = [torch.stack(int8.rotations(20)[1:]).float()] * 3
    to = calls.Truncations(*halves, [20] * 3, rotations, [(0.0, 0.0)] * 3, [False] * 3)

    def compute(_: int) -> list[Tensor]:
        copy = wide.mT.clone().mT
        product = calls.product(small, copy)
        assert product is not None
        rounded = calls.round_floats(copy.mT, down, to, float8.FLOAT8) or []
        bits = [t.view(torch.uint8) for module in rounded for t in (module.up, module.down)]
        found = calls.gram(copy, exact=False), calls.gram(copy, exact=True), product, *bits
        return [t for t in found if t is not None]

    with ThreadPoolExecutor(4) as pool:
        first, *others = pool.map(compute, range(12))
    assert len(first) == 9
    assert all(torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True))
