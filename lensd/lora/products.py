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
