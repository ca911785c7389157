"""Multiply stacks of matrices, float32 or float64, on the device where they are.

On the CPU numpy multiplies: its BLAS was measured to be faster than torch's on AMD processors, and
it computes only one half of a symmetric product.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from lensd.lora._kernels import calls

PIECE = 2**22  # elements of a stack that are converted at a time


def product(a: Tensor, b: Tensor) -> Tensor:
    """Return a @ b for [..., m, k] and [..., k, n]."""
    if a.device.type != "cpu":
        return a @ b
    with np.errstate(over="ignore", invalid="ignore"):  # who calls this finds infinity and NaN
        return torch.from_numpy(np.matmul(a.numpy(), b.numpy()))


def up_product(up: Tensor, small: Tensor) -> Tensor:
    """Return up @ small [b, m, k] in the dtype of `small`, for up [b, m, r] of any float dtype."""
    found = calls.product(small.mT, up.mT)
    return product(up.to(small.dtype), small) if found is None else found.mT


def down_product(small: Tensor, down: Tensor) -> Tensor:
    """Return small @ down [b, k, n] in the dtype of `small`, for down [b, r, n] as `up_product`."""
    found = calls.product(small, down)
    return product(small, down.to(small.dtype)) if found is None else found


def gram(wide: Tensor) -> Tensor:
    """Return wide @ wide^T [..., r, r] for [..., r, n]."""
    return product(wide, wide.mT)


def exact_gram(wide: Tensor) -> Tensor:
    """Return the `gram` of a stack of any float dtype in float64."""
    found = calls.gram(wide, exact=True)
    if found is not None:
        return found
    first, *others = (gram(part.double()) for (part,) in pieces(wide))
    for other in others:
        first += other
    return first


def pieces(*stacks: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield stacks [..., n] of one shape, those of many elements some columns at a time."""
    elements = stacks[0].numel()
    if elements <= PIECE:
        yield stacks
    else:
        step = PIECE * stacks[0].shape[-1] // elements + 1
        yield from zip(*(t.split(step, dim=-1) for t in stacks), strict=True)


def quick_gram(wide: Tensor) -> Tensor:
    """Return the `gram` of a float32 stack [b, r, n], computed in float32 except for its diagonal.

    Returns float64. In float32 the rounding errors of a sum of squares all have one sign: the sum
    comes out too large by about 1e-7 of itself. So the diagonal is summed in float64. The rounding
    errors of the other elements have both signs; in a sum over a whole matrix of at least 64 rows
    they leave an error of about 1e-8. The kernels also take 16-bit floats.
    """
    found = calls.gram(wide, exact=False)
    if found is not None:
        return found
    result = gram(wide).double()
    result.diagonal(dim1=-2, dim2=-1).copy_(_sum_squares(wide))
    return result


def _sum_squares(wide: Tensor) -> Tensor:
    """Return the sums of squares [b, r] of the rows of [b, r, n], in float64."""
    if wide.device.type != "cpu":
        return wide.square().sum(-1, dtype=torch.float64)
    rows = wide.numpy()
    return torch.from_numpy(np.einsum("bij,bij->bi", rows, rows, dtype=np.float64))
