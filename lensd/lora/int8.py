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
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lensd.lora import fidelity
from lensd.lora.fidelity import ElementError, largest_elements
from lensd.lora.products import product

Floats = NDArray[Any]  # float32 or float64

LEVELS = 127
# Loaders that multiply in float16 need up_i8 @ down_i8 within its range of 65504. At 45000 the
# sum keeps 30 % of room, and a measured 1.4 dB less noise than a guard of 30000 leaves.
GUARD = 45000.0
SLACK = 1.002  # of a scale, for what rounding adds to a product: 0.02 dB
ROTATIONS = 4
ROUNDING = 1e-5  # of a norm in float32, generously
BLOCK_ROWS, BLOCK_COLUMNS = 64, 4096  # of a product: as float32 they fit a core's own cache


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
    elements: ElementError  # of exact_up and exact_down

    def decoded(self) -> tuple[Tensor, Tensor]:
        """Float factors, what a loader's product comes from."""
        return self.up.to(self.exact_up) * self.scale, self.down.to(self.exact_down) * self.scale


class Factors(NamedTuple):
    """up [b, m, k] and down [b, k, n] of b modules."""

    up: Tensor
    down: Tensor

    def own(self, at: int, rank: int) -> tuple[Floats, Floats]:
        """One module's, of its own rank, in numpy: for many small steps that hang on each other."""
        return self.up[at, :, :rank].cpu().numpy(), self.down[at, :rank].cpu().numpy()

    def turned(self, rotation: Tensor) -> Factors:
        """The same products; rotation [b, k, k]."""
        return Factors(product(self.up, rotation), product(rotation.mT, self.down))

    def steps(self) -> Tensor:
        """scale^2 of each balanced pair: the square of the quantization step."""
        return largest_elements(self.up) * largest_elements(self.down) / LEVELS**2

    def balance(self) -> None:
        """Give both the same largest element, in place; zeros stay as they are."""
        balance = (largest_elements(self.down) / largest_elements(self.up)).sqrt()
        balance = balance.nan_to_num(1.0, 1.0).masked_fill(balance == 0, 1.0).to(self.up)
        self.up.mul_(balance[:, None, None])
        self.down.div_(balance[:, None, None])


def quantize(up: Tensor, down: Tensor, *others: tuple[Tensor, Tensor]) -> Quantized:
    """Quantize delta = up @ down, up [m, k], down [k, n], float32 or float64, all finite.

    `others`: more factors of the same delta.
    """
    pairs = [Factors(f[None], g[None]) for f, g in others]
    ranks = [up.shape[1]]
    return quantize_all(*best_gauge(Factors(up[None], down[None]), ranks, *pairs), ranks)[0]


def quantize_all(exact: Factors, steps: Sequence[float], ranks: Sequence[int]) -> list[Quantized]:
    """The same for b modules in the gauge that `best_gauge` found."""
    # a delta whose scale no float32 alpha could carry becomes zero
    tiny = torch.finfo(torch.float32).tiny
    scales = torch.tensor([s if s >= tiny else 0.0 for s in steps], dtype=torch.float64).sqrt()
    rounded = Factors(_round(exact.up, scales), _round(exact.down, scales))
    for at, rank in enumerate(ranks):
        scales[at] = _keep_guard(exact, rounded, at, rank, float(scales[at]))
    return _quantized(exact, rounded, scales, ranks)


def best_gauge(
    factors: Factors, ranks: Sequence[int], *others: Factors
) -> tuple[Factors, list[float]]:
    """Balanced factors of the same deltas, and the steps (squares) that they and the guard allow.

    Of b modules, whose columns of up and rows of down are zero from ranks[i] on. Candidates are the
    rotations of these factors, and `others`. The error grows with the step: the candidate with the
    smallest is taken. Where the guard asks for a larger step than the first ones have, as it mostly
    does, no other candidate can be better.
    """
    best = factors.turned(_rotations(ranks, 1, factors.up))
    steps = best.steps().tolist()
    every = range(len(ranks))
    for other in (factors, *others):
        _take_smaller(best, steps, other, every)
    del other, others  # at full rank tens of MB
    best.balance()
    guarded = [_guarded(best, at, ranks[at], steps[at]) for at in every]
    free = [at for at in every if 0 < steps[at] == guarded[at]]
    if free:
        own_ranks = [ranks[at] for at in free]
        own = factors if len(free) == len(ranks) else Factors(*(t[free] for t in factors))
        for number in range(2, ROTATIONS):
            _take_smaller(best, steps, own.turned(_rotations(own_ranks, number, own.up)), free)
        best.balance()
        for at in free:
            guarded[at] = _guarded(best, at, ranks[at], steps[at])
    return best, guarded


def _take_smaller(best: Factors, steps: list[float], other: Factors, places: Sequence[int]) -> None:
    """Replace the best of each place by what has a smaller step; other's first is of places[0]."""
    for at, step, up, down in zip(places, other.steps().tolist(), *other, strict=True):
        if step < steps[at]:
            steps[at] = step
            best.up[at], best.down[at] = up, down


def _guarded(exact: Factors, at: int, rank: int, step: float) -> float:
    """The step, or a larger one that keeps the guard, as far as can be said before rounding."""
    largest = largest_product(*exact.own(at, rank), GUARD * step)
    return step if largest <= GUARD * step else largest / GUARD * SLACK**2


def _keep_guard(exact: Factors, rounded: Factors, at: int, rank: int, scale: float) -> float:
    """Round one module again at a larger scale until no product passes the guard."""
    while (largest := largest_product(*rounded.own(at, rank), GUARD)) > GUARD:
        scale *= math.sqrt(largest / GUARD) * SLACK
        scales = torch.tensor([scale], dtype=torch.float64)
        for whole, factor in zip(rounded, exact, strict=True):
            whole[at] = _round(factor[at : at + 1], scales)[0]
    return scale


def _quantized(
    exact: Factors, rounded: Factors, scales: Tensor, ranks: Sequence[int]
) -> list[Quantized]:
    """`rounded` are whole numbers still in the factors' float dtype, which are used up."""
    int_up, int_down = (t.to(torch.int8) for t in rounded)
    decoded = Factors(*(t.mul_(scales.to(t)[:, None, None]) for t in rounded))
    noises = fidelity.squared_roundings(*exact, *decoded).tolist()
    width = exact.up.shape[1] + exact.down.shape[2]
    elements = fidelity.element_errors(zip(exact, decoded, strict=True), [k * width for k in ranks])
    return [
        Quantized(
            int_up[at, :, :k],
            int_down[at, :k],
            float(scales[at]),
            exact.up[at, :, :k],
            exact.down[at, :k],
            noises[at],
            elements[at],
        )
        for at, k in enumerate(ranks)
    ]


def plain(up: Tensor, down: Tensor) -> Quantized:
    """The textbook way: scale = max|tensor| / 127 for each factor as it is. For comparison."""
    exact = Factors(up[None].clone(), down[None].clone())
    scales = exact.steps().sqrt()
    exact.balance()
    rounded = Factors(_round(exact.up, scales), _round(exact.down, scales))
    return _quantized(exact, rounded, scales, [up.shape[1]])[0]


def _round(matrices: Tensor, scales: Tensor) -> Tensor:
    """To whole steps of scales [b]; of a scale of zero there are none."""
    scale = scales.to(matrices)
    scale = scale.masked_fill(scale == 0, math.inf)[:, None, None]
    return (matrices / scale).round_().clamp_(-LEVELS, LEVELS)


def _rotations(ranks: Sequence[int], number: int, like: Tensor) -> Tensor:
    """Rotation `number` of each rank, [b, k, k] for the largest rank k, zero beyond its own."""
    size = like.shape[-1]
    result = like.new_zeros(len(ranks), size, size)
    for at, rank in enumerate(ranks):
        result[at, :rank, :rank] = _rotation(rank, number, like.dtype)
    return result


@lru_cache(maxsize=1024)
def _rotation(rank: int, number: int, dtype: torch.dtype) -> Tensor:
    return rotations(rank)[number].to(dtype)


@lru_cache(maxsize=256)
def rotations(rank: int) -> tuple[Tensor, ...]:
    """Fixed orthogonal matrices [k, k]: the identity, then sign flips times a cosine transform.

    The cosine transform (DCT-II) exists for every k and has no element above sqrt(2 / k); the
    signs, from multiples of the golden ratio, only make the candidates differ.
    """
    index = torch.arange(rank, dtype=torch.float64)
    cosine = torch.cos(math.pi / rank * index[:, None] * (index[None, :] + 0.5))
    cosine *= math.sqrt(2 / rank)
    cosine[0] /= math.sqrt(2)
    golden = (math.sqrt(5) - 1) / 2
    flips = [((index * golden * (c + 1)) % 1 < 0.5).double() * 2 - 1 for c in range(ROTATIONS - 1)]
    return (torch.eye(rank, dtype=torch.float64), *(f[:, None] * cosine for f in flips))


def largest_product(up: Floats, down: Floats, enough: float) -> float:
    """max |up @ down|, or a proven upper bound of it once that is at most `enough`.

    No element exceeds its row's norm times its column's (Cauchy and Schwarz). Longest rows and
    columns come first, so that few blocks are formed before no other can hold a larger element.
    """
    rows = np.sqrt(np.einsum("ij,ij->i", up, up))
    columns = np.sqrt(np.einsum("ij,ij->j", down, down))
    largest = enough * (1 - ROUNDING)
    if rows.max() * columns.max() <= largest:
        return largest
    order = _longest(rows, largest / columns.max())
    across = _longest(columns, largest / rows.max())
    down, columns = down[:, across], columns[across]
    for top in range(0, len(order), BLOCK_ROWS):
        block = order[top : top + BLOCK_ROWS]
        reach = int(np.searchsorted(-columns, -largest / rows[block[0]]))
        for left in range(0, reach, BLOCK_COLUMNS):
            part = np.matmul(up[block], down[:, left : min(reach, left + BLOCK_COLUMNS)])
            largest = max(largest, float(part.max()), -float(part.min()))
    return largest


def _longest(lengths: Floats, least: float) -> NDArray[np.intp]:
    """Which of them are above `least`, the longest first."""
    index = np.flatnonzero(lengths > least)
    return index[np.argsort(-lengths[index], kind="stable")]
