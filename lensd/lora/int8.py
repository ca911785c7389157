"""Quantize factors to int8 with one common scale; choose the gauge; guard against overflow.

Every loader that merges casts the factors to float and computes alpha / rank * up @ down. So int8
factors whose scale is in alpha load exactly, without any change to the program:

    delta = scale^2 * up_i8 @ down_i8,  alpha = rank * scale^2.

Factors have a gauge: (up R)(R^T down) = up @ down for every orthogonal R, and (c up)(down / c) =
up @ down for every number c. The largest element of a tensor decides its scale. A rotation R that
spreads the energy of the leading components over all columns makes that element smaller, and so the
quantization step and the error, without any further byte. The number c gives both factors the same
largest element, so that one scale fits both.
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
from lensd.lora.products import PIECE, down_product, up_product

Floats = NDArray[Any]  # float32 or float64

LEVELS = 127
# Loaders that multiply in float16 overflow if an element of up_i8 @ down_i8 exceeds 65504. A guard
# of 45000 leaves a margin of 30 %; the measured noise is 1.4 dB lower than with a guard of 30000.
GUARD = 45000.0
SLACK = 1.002  # enlarges a scale for what rounding adds to a product; costs 0.02 dB
ROTATIONS = 4
ROUNDING = 1e-5  # generous bound of the relative rounding error of a norm in float32
BLOCK_ROWS, BLOCK_COLUMNS = 64, 4096  # of a product: as float32 a block fits in a core's cache


class Quantized(NamedTuple):
    """int8 up [m, k] and down [k, n], one scale for both, and their float factors before rounding.

    delta = exact_up @ exact_down, which scale^2 * up @ down approximates.
    """

    up: Tensor
    down: Tensor
    scale: float
    exact_up: Tensor
    exact_down: Tensor
    squared_noise: float  # ||delta - scale^2 * up @ down||_F^2
    elements: ElementError  # of exact_up and exact_down

    def decoded(self) -> tuple[Tensor, Tensor]:
        """Return the float factors that the int8 factors represent, in the dtype of the exact ones.

        Their product is what a loader computes.
        """
        return self.up.to(self.exact_up) * self.scale, self.down.to(self.exact_down) * self.scale


class Factors(NamedTuple):
    """up [b, m, k] and down [b, k, n] of b modules."""

    up: Tensor
    down: Tensor

    def module_at(self, at: int, rank: int) -> tuple[Floats, Floats]:
        """Return up [m, rank] and down [rank, n] of one module in numpy.

        numpy is faster than torch for many small steps that each need the one before.
        """
        return self.up[at, :, :rank].cpu().numpy(), self.down[at, :rank].cpu().numpy()

    def select(self, modules: Sequence[int]) -> Factors:
        """Return the factors of some modules; they are views if these follow each other."""
        first, end = modules[0], modules[-1] + 1
        if list(modules) == list(range(first, end)):
            return Factors(self.up[first:end], self.down[first:end])
        index = torch.tensor(modules, device=self.up.device)
        # It copies whole matrices, several times faster than an index in brackets.
        return Factors(*(t.index_select(0, index) for t in self))

    def rotated(self, rotation: Tensor) -> Factors:
        """Return up R and R^T down, whose products are the same, for rotations R [b, k, k]."""
        return Factors(up_product(self.up, rotation), down_product(rotation.mT, self.down))

    def sizes(self) -> Tensor:
        """Return the largest element of up and of down: [2, b]."""
        return torch.stack([largest_elements(self.up), largest_elements(self.down)])

    def balance(self, sizes: Tensor) -> None:
        """Give both factors of each module the same largest element, in place.

        `sizes` are those of these factors. Factors of zeros stay unchanged.
        """
        balance = (sizes[1] / sizes[0]).sqrt()
        balance = balance.nan_to_num(1.0, 1.0).masked_fill(balance == 0, 1.0).to(self.up)
        self.up.mul_(balance[:, None, None])
        self.down.div_(balance[:, None, None])


def quantize(up: Tensor, down: Tensor, *others: tuple[Tensor, Tensor]) -> Quantized:
    """Quantize delta = up @ down, for up [m, k], down [k, n], float32 or float64, all finite.

    `others`: more pairs of factors of the same delta, which may have a better gauge.
    """
    pairs = [Factors(f[None], g[None]) for f, g in others]
    ranks = [up.shape[1]]
    return quantize_all(*best_gauge(Factors(up[None], down[None]), ranks, *pairs), ranks)[0]


def quantize_all(exact: Factors, steps: Sequence[float], ranks: Sequence[int]) -> list[Quantized]:
    """Quantize b modules, given the factors and the squared steps that `best_gauge` returned."""
    # If the alpha would be too small for float32, the delta becomes zero.
    tiny = torch.finfo(torch.float32).tiny
    scales = torch.tensor([s if s >= tiny else 0.0 for s in steps], dtype=torch.float64).sqrt()
    rounded = _round_factors(exact, scales)
    products = largest_products(rounded, range(len(ranks)), ranks, [GUARD] * len(ranks))
    for at, (rank, largest) in enumerate(zip(ranks, products, strict=True)):
        if largest > GUARD:
            scale = float(scales[at])
            scales[at] = _round_within_guard(exact, rounded, at, rank, scale, largest)
    return _measure_quantized(exact, rounded, scales, ranks)


def best_gauge(
    factors: Factors, ranks: Sequence[int], *others: Factors
) -> tuple[Factors, list[float]]:
    """Return balanced factors of the same deltas in the best gauge, and their squared steps.

    The steps are the smallest that the elements and the guard allow. In each of the b modules, the
    columns of up and the rows of down from ranks[i] on are zero. The candidates are the rotations
    of `factors`, `factors` themselves, and `others`. The error grows with the step, so the
    candidate with the smallest step is chosen. If the guard requires a larger step than the first
    candidates have, which it mostly does, no further candidate can be better.
    """
    best = factors.rotated(rotations_of_ranks(ranks, 1, factors.up))
    sizes = best.sizes()
    steps = _squared_steps(sizes).tolist()
    every = range(len(ranks))
    for other in (factors, *others):
        _replace_where_smaller(best, steps, sizes, other, every)
    del other, others  # tens of MB at full rank
    best.balance(sizes)
    guarded = _enlarge_for_guard(best, every, ranks, steps)
    unguarded = [at for at in every if 0 < steps[at] == guarded[at]]
    if unguarded:
        few_ranks = [ranks[at] for at in unguarded]
        few = factors.select(unguarded)
        for number in range(2, ROTATIONS):
            rotated = few.rotated(rotations_of_ranks(few_ranks, number, few.up))
            _replace_where_smaller(best, steps, sizes, rotated, unguarded)
        best.balance(best.sizes())
        enlarged = _enlarge_for_guard(best, unguarded, ranks, steps)
        for at, step in zip(unguarded, enlarged, strict=True):
            guarded[at] = step
    return best, guarded


def _squared_steps(sizes: Tensor) -> Tensor:
    """Return the square of each module's quantization step after balancing: scale^2 [b]."""
    return sizes[0] * sizes[1] / LEVELS**2


def _replace_where_smaller(
    best: Factors, steps: list[float], sizes: Tensor, other: Factors, indices: Sequence[int]
) -> None:
    """Replace factors in `best` by those of `other` that have a smaller step.

    Row i of `other` is a candidate for row indices[i] of `best`, whose steps and sizes are updated.
    """
    found = other.sizes()
    for row, (at, step) in enumerate(zip(indices, _squared_steps(found).tolist(), strict=True)):
        if step < steps[at]:
            steps[at], sizes[:, at] = step, found[:, row]
            best.up[at], best.down[at] = other.up[row], other.down[row]


def _enlarge_for_guard(
    exact: Factors, indices: Sequence[int], ranks: Sequence[int], steps: Sequence[float]
) -> list[float]:
    """Return the squared steps of some modules, enlarged where a product exceeds the guard.

    The products are those of the unrounded factors.
    """
    enough = [GUARD * step for step in steps]
    found = largest_products(exact, indices, ranks, enough)
    return [
        steps[at] if largest <= enough[at] else largest / GUARD * SLACK**2
        for at, largest in zip(indices, found, strict=True)
    ]


def _round_within_guard(
    exact: Factors, rounded: Factors, at: int, rank: int, scale: float, largest: float
) -> float:
    """Round one module again at larger scales until no product exceeds the guard.

    `largest` product of its row of `rounded`, which is updated. Returns its scale.
    """
    while largest > GUARD:
        scale *= math.sqrt(largest / GUARD) * SLACK
        one = Factors(exact.up[at : at + 1], exact.down[at : at + 1])
        again = _round_factors(one, torch.tensor([scale], dtype=torch.float64))
        rounded.up[at], rounded.down[at] = again.up[0], again.down[0]
        largest = _largest_product_of(rounded, at, rank, GUARD)
    return scale


def _measure_quantized(
    exact: Factors, rounded: Factors, scales: Tensor, ranks: Sequence[int]
) -> list[Quantized]:
    """Return rounded factors as int8, with the error against the exact ones.

    The rounded ones have whole numbers in the float dtype of the factors; they are overwritten.
    """
    width = exact.up.shape[1] + exact.down.shape[2]
    counts, sizes = [k * width for k in ranks], scales.tolist()
    encoded = Factors(*(t.to(torch.int8) for t in rounded))
    decoded = Factors(*(t.mul_(scales.to(t)[:, None, None]) for t in rounded))
    noises = fidelity.squared_roundings(*exact, *decoded).tolist()
    elements = fidelity.element_errors(zip(exact, decoded, strict=True), counts)
    return [
        Quantized(
            encoded.up[at, :, :k],
            encoded.down[at, :k],
            sizes[at],
            exact.up[at, :, :k],
            exact.down[at, :k],
            noises[at],
            elements[at],
        )
        for at, k in enumerate(ranks)
    ]


def plain(up: Tensor, down: Tensor) -> Quantized:
    """Quantize in the textbook way: scale = max |tensor| / 127 for each factor, without a gauge.

    Only the benchmarks and tests use it, for comparison.
    """
    exact = Factors(up[None].clone(), down[None].clone())
    sizes = exact.sizes()
    scales = _squared_steps(sizes).sqrt()
    exact.balance(sizes)
    return _measure_quantized(exact, _round_factors(exact, scales), scales, [up.shape[1]])[0]


def _round_factors(exact: Factors, scales: Tensor) -> Factors:
    """Divide by scales [b] and round to whole numbers in the same dtype."""
    return Factors(*(_round(t, scales) for t in exact))


def _round(matrices: Tensor, scales: Tensor) -> Tensor:
    """Divide by scales [b] and round to whole numbers; for a scale of 0 all numbers are 0."""
    scale = scales.to(matrices)
    scale = scale.masked_fill(scale == 0, math.inf)[:, None, None]
    return (matrices / scale).round_().clamp_(-LEVELS, LEVELS)


def rotations_of_ranks(ranks: Sequence[int], number: int, like: Tensor) -> Tensor:
    """Return rotation `number` for each rank as [b, k, k], zero from the rank on.

    k is the last dimension of `like`, which also gives dtype and device.
    """
    size = like.shape[-1]
    result = torch.zeros(len(ranks), size, size, dtype=like.dtype)
    for at, rank in enumerate(ranks):
        result[at, :rank, :rank] = _rotation(rank, number, like.dtype)
    return result.to(like.device)


@lru_cache(maxsize=1024)
def _rotation(rank: int, number: int, dtype: torch.dtype) -> Tensor:
    return rotations(rank)[number].to(dtype)


@lru_cache(maxsize=256)
def rotations(rank: int) -> tuple[Tensor, ...]:
    """Return ROTATIONS fixed orthogonal matrices [k, k] for the rank k.

    The first is the identity, the others are a cosine transform (DCT-II) with signs. The transform
    exists for every k and has no element above sqrt(2 / k). The signs, from multiples of the golden
    ratio, only make the candidates differ.
    """
    index = torch.arange(rank, dtype=torch.float64)
    cosine = torch.cos(math.pi / rank * index[:, None] * (index[None, :] + 0.5))
    cosine *= math.sqrt(2 / rank)
    cosine[0] /= math.sqrt(2)
    golden = (math.sqrt(5) - 1) / 2
    flips = [((index * golden * (c + 1)) % 1 < 0.5).double() * 2 - 1 for c in range(ROTATIONS - 1)]
    return (torch.eye(rank, dtype=torch.float64), *(f[:, None] * cosine for f in flips))


def largest_products(
    factors: Factors, indices: Sequence[int], ranks: Sequence[int], enough: Sequence[float]
) -> list[float]:
    """Return the `largest_product` of some modules. `ranks` and `enough` are those of all."""
    if factors.up.device.type == "cpu":
        return [_largest_product_of(factors, at, ranks[at], enough[at]) for at in indices]
    formed = form_largest_products(factors).tolist()
    return [formed[at] for at in indices]


def form_largest_products(factors: Factors) -> Tensor:
    """Return max |up @ down| [b] by forming the products, some rows at a time: for a GPU."""
    up, down = factors
    rows = max(1, PIECE // (down.shape[0] * down.shape[2]))
    parts = [(part @ down).abs().amax((1, 2)) for part in up.split(rows, dim=1)]
    return torch.stack(parts).amax(0)


def _largest_product_of(factors: Factors, at: int, rank: int, enough: float) -> float:
    """Return `largest_product` of one module."""
    return largest_product(*factors.module_at(at, rank), enough)


@np.errstate(divide="ignore", invalid="ignore", over="ignore")
def largest_product(up: Floats, down: Floats, enough: float) -> float:
    """Return max |up @ down|, or an upper bound of it if that bound is at most `enough`.

    Without a warning it returns any number for factors that are not finite: they are of a file
    that was rewritten after the first pass, and the engine discards that result.

    No element of the product exceeds the norm of its row times the norm of its column (Cauchy and
    Schwarz). Rows and columns with the largest norms are multiplied first, so that only few blocks
    of the product are formed: those that can have a larger element than the ones before.
    """
    rows = np.sqrt(np.einsum("ij,ij->i", up, up))
    columns = np.sqrt(np.einsum("ij,ij->j", down, down))
    largest = enough * (1 - ROUNDING)
    if rows.max() * columns.max() <= largest:
        return largest
    row_order = _indices_above(rows, largest / columns.max())
    column_order = _indices_above(columns, largest / rows.max())
    down, columns = down[:, column_order], columns[column_order]
    for top in range(0, len(row_order), BLOCK_ROWS):
        block = row_order[top : top + BLOCK_ROWS]
        # Only columns before `end` can have a larger element in these rows.
        end = int(np.searchsorted(-columns, -largest / rows[block[0]]))
        for left in range(0, end, BLOCK_COLUMNS):
            part = np.matmul(up[block], down[:, left : min(end, left + BLOCK_COLUMNS)])
            largest = max(largest, float(part.max()), -float(part.min()))
    return largest


def _indices_above(norms: Floats, limit: float) -> NDArray[np.intp]:
    """Return the indices of the norms above the limit, the largest norm first."""
    index = np.flatnonzero(norms > limit)
    return index[np.argsort(-norms[index], kind="stable")]
