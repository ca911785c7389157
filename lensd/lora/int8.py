"""Factors -> int8 with one common scale, and back; the balancing gauge; the overflow guard.

Every loader that merges casts the factors to float and computes alpha / rank * up @ down, so int8
factors with their scale carried by alpha load exactly and without any change in the program:

    delta = scale^2 * up_i8 @ down_i8,  alpha = rank * scale^2.

Factors have a gauge: (up R)(R^T down) = up @ down for every orthogonal R, and c up, down / c for
every c. The scale of a tensor is set by its largest element, so a rotation that spreads the energy
of the leading components over all columns makes the step, and with it the error, smaller for no
byte more; c then makes one scale serve both factors.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from lensd.lora import fidelity
from lensd.lora.fidelity import largest_element

LEVELS = 127
# Loaders that multiply in float16 need up_i8 @ down_i8 within its range of 65504. At 45000 the
# sum keeps 30 % of room, and a measured 1.4 dB less noise than a guard of 30000 leaves.
GUARD = 45000.0
ROTATIONS = 6
CONTENDERS = 2  # candidates that are tried; more of them cost as much again for 0.05 dB
BLOCK_ELEMENTS = 1 << 22  # of float32: 16 MB, the largest piece of a product that is ever formed


class Quantized(NamedTuple):
    """int8 up [m, k] and down [k, n], the float factors they stand for, and one scale for both.

    delta = scale^2 * up @ down, exact_up @ exact_down the same before rounding.
    """

    up: Tensor
    down: Tensor
    scale: float
    exact_up: Tensor
    exact_down: Tensor
    squared_noise: float  # ||delta - scale^2 * up @ down||_F^2

    def decoded(self) -> tuple[Tensor, Tensor]:
        """Float factors, what a loader's product comes from."""
        return self.up.to(self.exact_up) * self.scale, self.down.to(self.exact_down) * self.scale


def quantize(up: Tensor, down: Tensor, *others: tuple[Tensor, Tensor]) -> Quantized:
    """Quantize delta = up @ down, up [m, k], down [k, n], float32 or float64, all finite.

    Candidates are the rotations of these factors, and `others`: more factors of the same delta.
    The error grows with the product of the largest elements, so that only the CONTENDERS with the
    smallest are tried; the one of least measured error is taken, the first among equals.
    """
    candidates = [_turn(up, down, r) for r in rotations(up.shape[1])] + list(others)
    contenders = sorted(candidates, key=_step)[:CONTENDERS]
    return min((_guarded(*c) for c in contenders), key=lambda q: q.squared_noise)


def _guarded(up: Tensor, down: Tensor) -> Quantized:
    """Balanced factors, rounded at the smallest scale that they and the guard allow.

    A delta whose scale no float32 alpha could carry becomes zero.
    """
    step = _step((up, down))
    if step < torch.finfo(torch.float32).tiny:
        return _encode(up, down, 0.0)
    balance = _balance(up, down)
    up, down = up * balance, down / balance
    scale = math.sqrt(step)
    while True:
        rounded = _round(up, scale), _round(down, scale)
        largest = largest_product(*rounded, GUARD)
        if largest <= GUARD:
            return _quantized(up, down, scale, rounded)
        scale *= math.sqrt(largest / GUARD) * (1 + 1e-4)


def _encode(up: Tensor, down: Tensor, scale: float) -> Quantized:
    return _quantized(up, down, scale, (_round(up, scale), _round(down, scale)))


def _quantized(up: Tensor, down: Tensor, scale: float, rounded: tuple[Tensor, Tensor]) -> Quantized:
    """`rounded` are whole numbers still in the factors' float dtype."""
    noise = fidelity.squared_rounding(up, down, *(t * scale for t in rounded))
    int_up, int_down = (t.to(torch.int8) for t in rounded)
    return Quantized(int_up, int_down, scale, up, down, noise)


def plain(up: Tensor, down: Tensor) -> Quantized:
    """The textbook way: scale = max|tensor| / 127 for each factor as it is. For comparison."""
    step = _step((up, down))
    if step < torch.finfo(torch.float32).tiny:
        return _encode(up, down, 0.0)
    balance = _balance(up, down)
    return _encode(up * balance, down / balance, math.sqrt(step))


def _turn(up: Tensor, down: Tensor, rotation: Tensor) -> tuple[Tensor, Tensor]:
    rotation = rotation.to(up)
    return up @ rotation, rotation.T @ down


def _step(factors: tuple[Tensor, Tensor]) -> float:
    """scale^2 of the balanced pair: the square of the quantization step."""
    up, down = factors
    return largest_element(up) * largest_element(down) / LEVELS**2


def _balance(up: Tensor, down: Tensor) -> float:
    """c such that c up and down / c have the same largest element."""
    return math.sqrt(largest_element(down) / largest_element(up))


def _round(factor: Tensor, scale: float) -> Tensor:
    if scale == 0:
        return torch.zeros_like(factor)
    return (factor / scale).round_().clamp_(-LEVELS, LEVELS)


@lru_cache(maxsize=256)
def rotations(rank: int) -> tuple[Tensor, ...]:
    """Fixed orthogonal matrices [k, k]: the identity, then sign flips times a cosine transform.

    The cosine transform (DCT-II) exists for every k and has no element above sqrt(2 / k); the
    signs, from multiples of the golden ratio, only make the candidates differ.
    """
    if rank == 1:
        return (torch.ones(1, 1, dtype=torch.float64),)
    index = torch.arange(rank, dtype=torch.float64)
    cosine = torch.cos(math.pi / rank * index[:, None] * (index[None, :] + 0.5))
    cosine *= math.sqrt(2 / rank)
    cosine[0] /= math.sqrt(2)
    golden = (math.sqrt(5) - 1) / 2
    flips = [((index * golden * (c + 1)) % 1 < 0.5).double() * 2 - 1 for c in range(ROTATIONS - 1)]
    return (torch.eye(rank, dtype=torch.float64), *(f[:, None] * cosine for f in flips))


def largest_product(up: Tensor, down: Tensor, enough: float) -> float:
    """max |up @ down|, or a proven upper bound of it once that is at most `enough`.

    No element exceeds its row's norm times its column's (Cauchy and Schwarz), so that only the
    rows and columns that can pass `enough` are multiplied, in blocks.
    """
    rows, columns = up.norm(dim=1), down.norm(dim=0)
    bound = float(rows.max()) * float(columns.max())
    if bound <= enough:
        return bound
    up = up[rows * columns.max() > enough]
    down = down[:, columns * rows.max() > enough]
    height = max(1, BLOCK_ELEMENTS // down.shape[1])
    largest = max(largest_element(block @ down) for block in up.split(height))
    return max(enough * (1 - 1e-9), largest)
