"""Call the kernels with tensors, whose sizes, dtypes and layouts are checked here.

A function returns None if the kernels cannot take its arguments, or if there are no kernels; then
the caller computes in Python. ctypes releases the interpreter's lock during a call. Every thread
has its own memory for intermediate results.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Sequence
from ctypes import c_double, c_int32, c_size_t, c_void_p
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lensd.lora._kernels import loading

FLOATS = {torch.float16: 0, torch.bfloat16: 1, torch.float32: 2}
DTYPES = FLOATS | {torch.int8: 3}
# The memory for intermediate results grows with the square of the rank: here to 17 MB.
LARGEST_RANK = 512
ALIGNMENT = 64

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
    "round": (c_void_p, c_size_t, c_size_t, c_void_p, c_void_p),
    "rounding": (c_void_p, c_void_p, *[c_size_t] * 3, c_int32, *[c_void_p] * 4),
    "largest_product": (c_int32, *[c_void_p] * 2, *[c_size_t] * 4, *[c_void_p] * 3),
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


def round_to_int8(exact: Tensor, scales: Tensor) -> Tensor:
    """Return [b, m, n] / scales [b] as int8; 0 where the scale is 0.

    `exact` is contiguous and float32, and the kernels must be able to take it.
    """
    out = torch.empty(exact.shape, dtype=torch.int8)
    b, count = len(exact), exact[0].numel()
    steps = scales.float().contiguous()
    if _factor(exact.reshape(b, 1, count)) is None or steps.shape != (b,):
        raise ValueError(f"shapes do not fit: {exact.shape} and {scales.shape}")
    if exact.dtype != torch.float32 or not exact.is_contiguous():
        raise ValueError(f"no contiguous float32: {exact.dtype}")
    _function("round")(exact.data_ptr(), b, count, steps.data_ptr(), out.data_ptr())
    return out


def rounding(exact: Tensor, rounded: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
    """Measure what rounding changed, for `exact` [b, r, n] float32 and `rounded` int8.

    Both have the same layout, and the kernels must be able to take them. With y = scales * rounded
    and e = exact - y, returns the Gram matrices e e^T, y y^T and e y^T [b, 3, r, r], and the sums
    of exact^2, e^2 and |e| [b, 3].
    """
    found, other = _factor(exact), _factor(rounded)
    steps = scales.float().contiguous()
    if found is None or other is None or found[1:] != other[1:] or steps.shape != (found.b,):
        raise ValueError(f"shapes do not fit: {exact.shape} and {rounded.shape}")
    if (exact.dtype, rounded.dtype) != (torch.float32, torch.int8):
        raise ValueError(f"dtypes do not fit: {exact.dtype} and {rounded.dtype}")
    grams = torch.empty(found.b, 3, found.rank, found.rank, dtype=torch.float64)
    elements = torch.empty(found.b, 3, dtype=torch.float64)
    data = exact.data_ptr(), rounded.data_ptr()
    sizes = found.b, found.rank, found.longer, found.short_first
    results = grams.data_ptr(), elements.data_ptr()
    _run("rounding", *data, *sizes, steps.data_ptr(), *results)
    return grams, elements


def largest_products(up: Tensor, down: Tensor, enough: Sequence[float]) -> list[float] | None:
    """Return max |up @ down|, or a bound that is at most `enough`, of b modules.

    up [b, m, k] and down [b, k, n] are float32 or int8, both alike.
    """
    left, right = _factor(up.mT), _factor(down)
    if left is None or right is None or left.rank != right.rank or up.dtype != down.dtype:
        return None
    if not (up.is_contiguous() and down.is_contiguous()):
        return None
    if not left.b == right.b == len(enough):
        raise ValueError(f"shapes do not fit: {up.shape}, {down.shape} and {len(enough)} limits")
    limits, out = (c_double * left.b)(*enough), (c_double * left.b)()
    sizes = left.b, left.longer, left.rank, right.longer
    addresses = ctypes.addressof(limits), ctypes.addressof(out)
    _run("largest_product", *left.arguments, right.data.data_ptr(), *sizes, *addresses)
    return list(out)
