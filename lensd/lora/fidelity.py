"""Two sets of factors -> how far apart their delta weights and their elements are.

Frobenius norms of products need only Gram matrices: ||up down||^2 = tr(up^T up down down^T).
Sums are float64, and so are the products unless all factors are float32, which shows six digits of
what is no difference. The delta weight is never formed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lensd.lora.products import gram, product


def squared_norm(up: Tensor, down: Tensor) -> float:
    """||up @ down||_F^2 for up [m, k], down [k, n]."""
    return inner(up, down, up, down)


def inner(up: Tensor, down: Tensor, other_up: Tensor, other_down: Tensor) -> float:
    """<up @ down, other_up @ other_down>: [m, r] [r, n] against [m, k] [k, n]."""
    return float(inners(up, down, other_up, other_down))


def inners(up: Tensor, down: Tensor, other_up: Tensor, other_down: Tensor) -> Tensor:
    """The same of many modules [...] in leading dimensions of all factors; float64."""
    up, down, other_up, other_down = _of_one_dtype(up, down, other_up, other_down)
    if up is other_up and down is other_down:
        left, right = gram(up.mT), gram(down)
    else:
        left, right = product(up.mT, other_up), product(down, other_down.mT)  # [..., r, k]
    return (left.double() * right.double()).sum((-2, -1))


def _of_one_dtype(*factors: Tensor) -> tuple[Tensor, ...]:
    """float32 if all are, else float64."""
    dtype = torch.float32 if all(t.dtype == torch.float32 for t in factors) else torch.float64
    return tuple(t.to(dtype) for t in factors)


def squared_distance(up: Tensor, down: Tensor, other_up: Tensor, other_down: Tensor) -> float:
    """||up @ down - other_up @ other_down||_F^2, of factors of unequal rank.

    Computed as a difference of norms: of float64 factors exact to some 1e-8 of ||up @ down||, and
    no further.
    """
    own, other = squared_norm(up, down), squared_norm(other_up, other_down)
    return max(0.0, own + other - 2 * inner(up, down, other_up, other_down))


def squared_rounding(up: Tensor, down: Tensor, rounded_up: Tensor, rounded_down: Tensor) -> float:
    """The same for equal shapes, where a difference of norms would drown what rounding does."""
    return float(squared_roundings(up, down, rounded_up, rounded_down))


def squared_roundings(up: Tensor, down: Tensor, rounded_up: Tensor, rounded_down: Tensor) -> Tensor:
    """The same of many modules [...].

    up down - up' down' = (up - up') down + up' (down - down').
    """
    up, down, rounded_up, rounded_down = _of_one_dtype(up, down, rounded_up, rounded_down)
    error_up, error_down = up - rounded_up, down - rounded_down
    return (
        inners(error_up, down, error_up, down)
        + inners(rounded_up, error_down, rounded_up, error_down)
        + 2 * inners(error_up, down, rounded_up, error_down)
    ).clamp_min(0)


def largest_elements(matrices: Tensor) -> Tensor:
    """max |matrix| of each [...]; NaN where any element is. float64."""
    high, low = matrices.amax((-2, -1)), matrices.amin((-2, -1))
    return torch.maximum(high, -low).double()


@dataclass(slots=True)
class ElementError:
    """Sums over the elements of quantized tensors against what they stand for."""

    count: int = 0
    signal: float = 0.0
    squared: float = 0.0
    absolute: float = 0.0

    def scaled(self, gain: float) -> ElementError:
        """Of the same tensors, all times `gain`."""
        squared = gain**2
        return ElementError(
            self.count, self.signal * squared, self.squared * squared, self.absolute * gain
        )

    def merge(self, other: ElementError) -> None:
        self.count += other.count
        self.signal += other.signal
        self.squared += other.squared
        self.absolute += other.absolute

    @property
    def mse(self) -> float | None:
        return self.squared / self.count if self.count else None

    @property
    def mae(self) -> float | None:
        return self.absolute / self.count if self.count else None

    @property
    def snr_db(self) -> float | None:
        return decibels(self.signal, self.squared)


def element_errors(
    pairs: Iterable[tuple[Tensor, Tensor]], counts: Sequence[int]
) -> list[ElementError]:
    """Tensors [b, ...] against what they decode to; of b modules, which have `counts` elements."""
    sums = torch.zeros(len(counts), 3, dtype=torch.float64)
    for exact, decoded in pairs:
        error = exact - decoded
        parts = exact.square(), error.square(), error.abs_()
        sums += torch.stack([p.flatten(1).sum(1).double() for p in parts], dim=1).cpu()
    return [ElementError(n, *row) for n, row in zip(counts, sums.tolist(), strict=True)]


def decibels(signal: float, noise: float) -> float | None:
    """Signal-to-noise ratio of two energies in dB; None where either is nothing."""
    return 10 * math.log10(signal / noise) if signal > 0 and noise > 0 else None
