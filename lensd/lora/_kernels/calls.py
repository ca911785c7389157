"""Call the kernels with tensors, whose sizes, dtypes and layouts are checked here.

A function returns None if the kernels cannot take its arguments, or if there are no kernels; then
the caller computes in Python. ctypes releases the interpreter's lock during a call. Every thread
has its own memory for intermediate results.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from ctypes import c_bool, c_double, c_int32, c_size_t, c_void_p
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lensd.lora._kernels import loading

FLOATS = {torch.float16: 0, torch.bfloat16: 1, torch.float32: 2}
DTYPES = FLOATS | {torch.int8: 3, torch.float8_e4m3fn: 4}
ROUNDED = (torch.float16, torch.bfloat16, torch.float8_e4m3fn)  # what `round_floats` can give
# The memory for intermediate results grows with the square of the rank: here to 17 MB.
LARGEST_RANK = 512
ALIGNMENT = 64
QUANTIZATION = 7  # numbers of a module, see truncation.hpp

_ARGUMENTS = {
    "gram": (c_int32, c_void_p, *[c_size_t] * 3, c_int32, c_int32, c_void_p, c_void_p),
    "cross": (
        *(c_int32, c_void_p, c_size_t, c_int32) * 2,
        *(c_size_t, c_size_t, c_int32, c_void_p, c_void_p),
    ),
    "product": (
        *(c_int32, c_void_p, *[c_size_t] * 3, c_int32),
        *(c_void_p, c_size_t, c_void_p, c_void_p),
    ),
    "largest": (c_int32, c_void_p, c_size_t, c_size_t, c_void_p),
    "quantize": (
        *(c_int32, c_void_p, c_void_p, *[c_size_t] * 4, *[c_void_p] * 3, c_size_t),
        *(c_void_p, c_void_p, c_void_p, c_double, c_double, *[c_void_p] * 3),
    ),
    "round": (
        *(c_int32, c_void_p, c_void_p, *[c_size_t] * 4, *[c_void_p] * 3, c_size_t),
        *(c_void_p, c_void_p, c_void_p, c_int32, *[c_void_p] * 3),
    ),
}


class _Memory(threading.local):
    def __init__(self) -> None:
        self.buffer = torch.empty(0, dtype=torch.uint8)

    def of_size(self, size: int) -> int:
        """Return the address of at least `size` bytes."""
        if len(self.buffer) < size + ALIGNMENT:
            self.buffer = torch.empty(size + ALIGNMENT, dtype=torch.uint8)
        return -(-self.buffer.data_ptr() // ALIGNMENT) * ALIGNMENT


_memory = _Memory()


class _Factor(NamedTuple):
    """b matrices [rank, n], one after the other: "short first", or as [n, rank]."""

    data: Tensor
    b: int
    rank: int
    longer: int
    short_first: bool

    @property
    def arguments(self) -> tuple[int, int]:
        return DTYPES[self.data.dtype], self.data.data_ptr()


def _factor(wide: Tensor) -> _Factor | None:
    """Return [b, rank, n] or [rank, n] as the kernels take it; None if they cannot."""
    stack = wide if wide.dim() == 3 else wide[None]
    if loading.library() is None or stack.device.type != "cpu" or stack.dtype not in DTYPES:
        return None
    b, rank, longer = stack.shape
    short_first = stack.is_contiguous()
    if not (short_first or stack.mT.is_contiguous()) or not 0 < rank <= LARGEST_RANK:
        return None
    return _Factor(stack, b, rank, longer, short_first) if longer and b else None


def can_take(*stacks: Tensor) -> bool:
    """Whether the kernels can compute with these [..., rank, n]."""
    return all(_factor(wide) is not None for wide in stacks)


def _function(name: str) -> Callable[..., int]:
    function: Any = getattr(loading.library(), f"lensd_{name}")
    if function.argtypes is None:
        function.restype, function.argtypes = c_size_t, _ARGUMENTS[name]
    return function


def _run(name: str, *arguments: object) -> None:
    """Call a kernel whose last argument is the memory that it asks for."""
    function = _function(name)
    function(*arguments, _memory.of_size(function(*arguments, None)))


def gram(wide: Tensor, *, exact: bool) -> Tensor | None:
    """Return wide @ wide^T [..., r, r] in float64 for [..., r, n] or its transposed layout.

    The sums are float64 if `exact`. Otherwise they are float32 over 256 elements, and float64 over
    these and on the diagonal.
    """
    found = _factor(wide)
    if found is None:
        return None
    out = torch.empty(*wide.shape[:-1], found.rank, dtype=torch.float64)
    sizes = found.b, found.rank, found.longer, found.short_first
    _run("gram", *found.arguments, *sizes, exact, out.data_ptr())
    return out


def cross(a: Tensor, b: Tensor, *, exact: bool) -> Tensor | None:
    """Return a @ b^T [..., r, k] in float64 for a [..., r, n] and b [..., k, n]; as `gram`."""
    left, right = _factor(a), _factor(b)
    if left is None or right is None:
        return None
    if (left.b, left.longer) != (right.b, right.longer):
        raise ValueError(f"shapes do not fit: {a.shape} and {b.shape}")
    out = torch.empty(*a.shape[:-1], right.rank, dtype=torch.float64)
    sides = [(*f.arguments, f.rank, f.short_first) for f in (left, right)]
    _run("cross", *sides[0], *sides[1], left.b, left.longer, exact, out.data_ptr())
    return out


def product(small: Tensor, wide: Tensor) -> Tensor | None:
    """Return small @ wide [b, k, n] in float32 for small [b, k, r] and wide [b, r, n].

    The result has the layout of `wide`.
    """
    found = _factor(wide)
    if found is None or not 0 < small.shape[-2] <= LARGEST_RANK:
        return None
    b, rank, longer, count = found.b, found.rank, found.longer, small.shape[-2]
    if small.dtype != torch.float32:
        return None
    if small.shape != (b, count, rank):
        raise ValueError(f"shapes do not fit: {small.shape} and {wide.shape}")
    small = small if found.short_first else small.mT
    small = small.contiguous()
    out = torch.empty(b, *((count, longer) if found.short_first else (longer, count)))
    sizes = b, rank, longer, found.short_first
    _run("product", *found.arguments, *sizes, small.data_ptr(), count, out.data_ptr())
    return out if found.short_first else out.mT


def largest(matrices: Tensor) -> Tensor | None:
    """Return max |element| of each matrix [b, m, n] as float64 [b]; NaN if any is NaN."""
    plain = matrices.is_contiguous() or matrices.mT.is_contiguous()
    usable = plain and matrices.dim() == 3 and matrices.numel() and matrices.device.type == "cpu"
    if not usable or matrices.dtype not in FLOATS or loading.library() is None:
        return None
    b, m, n = matrices.shape
    out = torch.empty(b, dtype=torch.float64)
    dtype = DTYPES[matrices.dtype]
    _function("largest")(dtype, matrices.data_ptr(), b, m * n, out.data_ptr())
    return out


class Quantized(NamedTuple):
    """Rounded factors of a module, and what was measured: see `Quantization` in truncation.hpp."""

    up: Tensor  # [m * k]
    down: Tensor  # [k * n]
    data: tuple[memoryview, memoryview]  # their bytes: those of down, then those of up
    scale: float  # a loader computes scale^2 * up @ down; 1 for floats
    squared_noise: float
    signal: float
    squared: float
    absolute: float
    inner: float  # <stored up @ stored down, up @ down>
    squared_norm: float  # ||up @ down||^2


class Truncations(NamedTuple):
    """How b modules are truncated: delta = up @ left @ right^T @ down, with `counts` columns."""

    left: Tensor  # float32 [b, r, k], of which counts[i] columns count
    right: Tensor  # as left
    counts: Sequence[int]
    rotations: Sequence[Tensor]  # for each module float32 [3, count, count]
    # not 0 where delta also is the product of up times the first and down times the second
    gains: Sequence[tuple[float, float]]
    exact: Sequence[bool]  # whether inner products with the stored factors are float64


def quantize(
    up: Tensor, down: Tensor, to: Truncations, guard: tuple[float, float]
) -> list[Quantized] | None:
    """Round the truncations of up [b, m, r] @ down [b, r, n] to int8 in their best gauge.

    The kernels must be able to take the stored factors, of which the second gains are 1. `guard`:
    the largest product, and the slack. Returns None if float32 cannot hold the factors.
    """
    scales = (c_double * len(up))(*(gain for gain, _ in to.gains))
    exact = (c_bool * len(up))(*to.exact)
    return _round("quantize", up, down, to, torch.int8, (scales, exact, *guard))


def round_floats(
    up: Tensor, down: Tensor, to: Truncations, dtype: torch.dtype
) -> list[Quantized] | None:
    """Round the truncations of up [b, m, r] @ down [b, r, n] to one of the dtypes ROUNDED.

    float8 in the gauge that gives the smallest error. Otherwise where gains are given, the stored
    factors are rounded. Returns None if float32 cannot hold the factors.
    """
    gains = (c_double * (2 * len(up)))(*(gain for pair in to.gains for gain in pair))
    exact = (c_bool * len(up))(*to.exact)
    return _round("round", up, down, to, dtype, (gains, exact, DTYPES[dtype]))


def _round(
    name: str,
    up: Tensor,
    down: Tensor,
    to: Truncations,
    dtype: torch.dtype,
    arguments: tuple[object, ...],
) -> list[Quantized] | None:
    _require_fit(up, down, to)
    (b, m, rank), n, most = up.shape, down.shape[2], to.left.shape[2]
    numbers = torch.empty(sum(to.counts) * (m + n), dtype=dtype)
    found = torch.empty(b, QUANTIZATION, dtype=torch.float64)
    left, right = to.left.contiguous(), to.right.contiguous()
    rotations = [r.contiguous() for r in to.rotations]
    _run(
        name,
        *(DTYPES[up.dtype], up.data_ptr(), down.data_ptr(), b, m, rank, n),
        *((c_size_t * b)(*to.counts), left.data_ptr(), right.data_ptr(), most),
        (c_void_p * b)(*(r.data_ptr() for r in rotations)),
        *arguments,
        *(numbers.data_ptr(), found.data_ptr()),
    )
    rows = found.tolist()
    if any(math.isnan(scale) for scale, *_ in rows):
        return None
    parts = _split(numbers, to.counts, m, n)
    return [Quantized(*part, *row) for part, row in zip(parts, rows, strict=True)]


def _require_fit(up: Tensor, down: Tensor, to: Truncations) -> None:
    """Raise ValueError where the kernel would leave its memory or misread it."""
    if not (can_take(up.mT, down) and up.dtype == down.dtype in FLOATS):
        raise ValueError(f"dtypes do not fit: {up.dtype} and {down.dtype}")
    if not (up.is_contiguous() and down.is_contiguous()):
        raise ValueError(f"layouts do not fit: {up.stride()} and {down.stride()}")
    (b, _, rank), counts, halves = up.shape, to.counts, (to.left, to.right)
    lengths = {len(each) for each in (down, *halves, *to[2:])}
    most = to.left.shape[-1]
    if not (
        lengths == {b}
        and down.shape[1] == rank
        and all(t.shape == (b, rank, most) for t in halves)
        and 0 < min(counts) <= max(counts) <= most <= rank
        and all(r.shape == (3, k, k) for r, k in zip(to.rotations, counts, strict=True))
        and all(t.dtype == torch.float32 for t in (*halves, *to.rotations))
    ):
        raise ValueError(f"shapes do not fit: {up.shape}, {down.shape}, {to.left.shape}, {counts}")


def _split(
    numbers: Tensor, counts: Sequence[int], m: int, n: int
) -> Iterator[tuple[Tensor, Tensor, tuple[memoryview, memoryview]]]:
    """Yield up and down of each module, and their bytes."""
    parts = iter(numbers.split([size for k in counts for size in (k * n, m * k)]))
    data, start, size = numbers.view(torch.uint8).numpy().data, 0, numbers.itemsize
    for k, down, up in zip(counts, parts, parts, strict=True):
        middle, end = start + k * n * size, start + k * (m + n) * size
        yield up, down, (data[start:middle], data[middle:end])
        start = end
