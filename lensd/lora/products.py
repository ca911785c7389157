"""Products of stacks of matrices, float32 or float64, on whatever device they are.

On the CPU they are numpy's: its BLAS was found faster than torch's on AMD processors, and it forms
but one half of a symmetric product.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b; [..., m, k] and [..., k, n]."""
    if a.device.type != "cpu":
        return a @ b
    return torch.from_numpy(np.matmul(a.numpy(), b.numpy()))


def gram(wide: Tensor) -> Tensor:
    """wide @ wide^T; [..., r, n]."""
    return product(wide, wide.mT)


def quick_gram(wide: Tensor) -> Tensor:
    """gram of a float32 stack [b, r, n], formed as such and returned as float64.

    A sum of squares that float32 rounds at every step comes out too large, by some 1e-7 each time:
    the diagonal is summed in float64. What else is rounded goes either way, and of sums over whole
    matrices of 64 rows and more some 1e-8 is left of it.
    """
    found = gram(wide).double()
    found.diagonal(dim1=-2, dim2=-1).copy_(_squares(wide))
    return found


def _squares(wide: Tensor) -> Tensor:
    """Sums of squares [b, r] of the rows of [b, r, n], in float64."""
    if wide.device.type != "cpu":
        return wide.square().sum(-1, dtype=torch.float64)
    rows = wide.numpy()
    return torch.from_numpy(np.einsum("bij,bij->bi", rows, rows, dtype=np.float64))
