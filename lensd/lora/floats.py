"""int8 factors whose scale lies in their alpha -> float factors under the file's one alpha."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lensd.lora.int8 import LEVELS

# Below this scale float16's steps, which shrink no further, are wider than bfloat16's at the usual
# size of an int8 element, some 30.
SMALLEST_SCALE = 2.0**-21


def scale_of(alpha: float | None, rank: int, file_alpha: float | None) -> float:
    """s with float = int8 * s for both factors; negative: `up` changes its sign.

    delta = alpha/rank * up_i8 @ down_i8 = file_alpha/rank * up @ down; without a file alpha it is
    up @ down alone. An alpha of None or 0 means the rank, as in kohya's files.
    """
    ratio = (alpha or rank) / (rank if file_alpha is None else file_alpha)
    return math.copysign(math.sqrt(abs(ratio)), ratio)


def dtype_for(scale: float) -> str:
    """F16, or BF16 where float16 would overflow or lose more than bfloat16 does."""
    largest = torch.finfo(torch.float16).max
    return "F16" if SMALLEST_SCALE <= abs(scale) <= largest / (LEVELS + 1) else "BF16"


def expand(up: Tensor, down: Tensor, scale: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Float factors in the shapes of up [out, r, ...] and down [r, in, ...], both int8."""
    return (up.double() * scale).to(dtype), (down.double() * abs(scale)).to(dtype)
