"""Measure how far apart two sets of factors are: their delta weights and their elements.

Frobenius norms of products need only Gram matrices: ||up down||^2 = tr(up^T up down down^T). The
delta weight is formed only where it is smaller than its factors. Sums are float64. Products are
float64 too, unless all factors are float32: then norms are exact to about six digits, and
differences of norms to fewer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lensd.lora._kernels import calls
from lensd.lora.products import gram, pieces, product
from lensd.lora.shortening import form_delta, is_excessive, shorten


def squared_norm(up: Tensor, down: Tensor) -> float:
    """Return ||up @ down||_F^2 for up [m, k], down [k, n]."""
    return inner(up, down, up, down)


def inner(up: Tensor, down: Tensor, other_up: Tensor, other_down: Tensor) -> float:
    """Return <up @ down, other_up @ other_down> for [m, r], [r, n], [m, k] and [k, n]."""
    return float(inners(up, down, other_up, other_down))


def inners(up: Tensor, down: Tensor, other_up: Tensor, other_down: Tensor) -> Tensor:
    """Compute `inner` for many modules at once: all factors have leading dimensions [...].

    Returns float64 [...].
    """
    same = up is other_up and down is other_down
    up, down = shorten(up, down)
    other_up, other_down = (up, down) if same else shorten(other_up, other_down)
    up, down, other_up, other_down = _to_common_dtype(up, down, other_up, other_down)
    if same:
        left, right = gram(up.mT), gram(down)
    else:
        left, right = product(up.mT, other_up), product(down, other_down.mT)  # [..., r, k]
    return (left.double() * right.double()).sum((-2, -1))


def _to_common_dtype(*factors: Tensor) -> tuple[Tensor, ...]:
    """Convert to float32 if all factors are float32, else to float64."""
    dtype = torch.float32 if all(t.dtype == torch.float32 for t in factors) else torch.float64
    return tuple(t.to(dtype) for t in factors)


def squared_distance(up: Tensor, down: Tensor, other_up: Tensor, other_down: Tensor) -> float:
    """Return ||up @ down - other_up @ other_down||_F^2; the ranks of the factors may differ.

    It is computed as a difference of norms. With float64 factors its square root is exact to about
    1e-8 * ||up @ down||_F, so a smaller distance is lost.
    """
    own, other = squared_norm(up, down), squared_norm(other_up, other_down)
    return max(0.0, own + other - 2 * inner(up, down, other_up, other_down))


def squared_rounding(up: Tensor, down: Tensor, rounded_up: Tensor, rounded_down: Tensor) -> float:
    """Compute `squared_distance` for factors of equal shapes, exact for small distances too.

    Rounding changes a delta weight by less than a difference of norms can resolve.
    """
    return float(squared_roundings(up, down, rounded_up, rounded_down))


def squared_roundings(up: Tensor, down: Tensor, rounded_up: Tensor, rounded_down: Tensor) -> Tensor:
    """Compute `squared_rounding` for many modules [...] at once; returns float64 [...].

    It is the norm of up down - up' down' = (up - up') down + up' (down - down'). It is float64,
    or float32 if `up` and `down` are.
    """
    if is_excessive(up, down):
        return (form_delta(up, down) - form_delta(rounded_up, rounded_down)).square().sum((-2, -1))
    up, down = _to_common_dtype(up, down)
    of_up = _sum_grams((x - y, y) for x, y in _in_one_dtype(up.mT, rounded_up.mT))
    of_down = _sum_grams((x, x - y) for x, y in _in_one_dtype(down, rounded_down))
    sums = [(x.double() * y.double()).sum((-2, -1)) for x, y in zip(of_up, of_down, strict=True)]
    return (sums[0] + sums[1] + 2 * sums[2]).clamp_min(0)


def _in_one_dtype(exact: Tensor, rounded: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield some columns of both at a time, in the dtype of `exact`."""
    return ((x, y.to(x.dtype)) for x, y in pieces(exact, rounded))


def _sum_grams(pairs: Iterable[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """Return the sums of x x^T, y y^T and x y^T over pairs of [..., r, n]."""
    each = ([gram(x), gram(y), product(x, y.mT)] for x, y in pairs)
    sums = next(each)
    for parts in each:
        for total, part in zip(sums, parts, strict=True):
            total.add_(part)
    return sums


def largest_elements(matrices: Tensor) -> Tensor:
    """Return max |element| of each matrix [..., m, n] as float64 [...]; NaN if any is NaN."""
    found = calls.largest(matrices)
    if found is not None:
        return found
    high, low = matrices.amax((-2, -1)), matrices.amin((-2, -1))
    return torch.maximum(high, -low).double()


@dataclass(slots=True)
class ElementError:
    """Sums over all elements of quantized tensors.

    An element's error is the difference between its exact value and its decoded value.
    """

    count: int = 0  # of elements
    signal: float = 0.0  # sum of squares of the exact values
    squared: float = 0.0  # sum of squared errors
    absolute: float = 0.0  # sum of |error|

    def scaled(self, gain: float) -> ElementError:
        """Return the sums for the same tensors multiplied by `gain`, which is positive."""
        squared = gain**2
        return ElementError(
            self.count, self.signal * squared, self.squared * squared, self.absolute * gain
        )

    def merge(self, other: ElementError) -> None:
        """Add the sums of other tensors to these."""
        self.count += other.count
        self.signal += other.signal
        self.squared += other.squared
        self.absolute += other.absolute

    @property
    def mse(self) -> float | None:
        """Mean squared error of an element; None without elements."""
        return self.squared / self.count if self.count else None

    @property
    def mae(self) -> float | None:
        """Mean absolute error of an element; None without elements."""
        return self.absolute / self.count if self.count else None

    @property
    def snr_db(self) -> float | None:
        """Signal-to-noise ratio in dB; None if the signal or the error is 0."""
        return decibels(self.signal, self.squared)


def element_errors(
    pairs: Iterable[tuple[Tensor, Tensor]], counts: Sequence[int]
) -> list[ElementError]:
    """Sum up the element errors of b modules.

    `pairs`: exact and decoded tensors, each [b, ...] with one row per module. `counts`: how many
    elements each module has; elements beyond them are padding and are 0 in both tensors.
    """
    sums = torch.zeros(len(counts), 3, dtype=torch.float64)
    for exact, decoded in (piece for pair in pairs for piece in pieces(*pair)):
        error = exact - decoded
        parts = exact.square(), error.square(), error.abs_()
        found = torch.stack([p.flatten(1).sum(1).double() for p in parts], dim=1)
        sums = sums.to(found.device) + found
    return [ElementError(n, *row) for n, row in zip(counts, sums.tolist(), strict=True)]


def decibels(signal: float, noise: float) -> float | None:
    """Return 10 log10(signal / noise) of two energies; None if either is 0."""
    return 10 * math.log10(signal / noise) if signal > 0 and noise > 0 else None
