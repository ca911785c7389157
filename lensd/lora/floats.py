"""Convert int8 factors, whose scale is in their alpha, to float factors with the file's alpha."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lensd.lora.int8 import LEVELS

# An int8 element is typically about 30. Below this scale its product with the scale is so small
# that float16's steps, which have a smallest size, are wider than bfloat16's.
SMALLEST_SCALE = 2.0**-21


def scale_of(alpha: float | None, rank: int, file_alpha: float | None) -> float:
    """Return s such that int8 factors times s are the float factors of the same delta weight.

    delta = alpha / rank * up_i8 @ down_i8 = file_alpha / rank * up @ down, and without a file alpha
    delta = up @ down. An alpha of None or 0 means the rank, as in kohya's files. If s is negative,
    `up` is multiplied by s and `down` by |s|.
    """
    ratio = (alpha or rank) / (rank if file_alpha is None else file_alpha)
    return math.copysign(math.sqrt(abs(ratio)), ratio)


def dtype_for(scale: float) -> str:
    """Return F16, or BF16 where float16 would overflow or lose more than bfloat16 does."""
    largest = torch.finfo(torch.float16).max
    return "F16" if SMALLEST_SCALE <= abs(scale) <= largest / (LEVELS + 1) else "BF16"


def expand(up: Tensor, down: Tensor, scale: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return float factors in the shapes of up [out, r, ...] and down [r, in, ...], both int8."""
    return (up.double() * scale).to(dtype), (down.double() * abs(scale)).to(dtype)
