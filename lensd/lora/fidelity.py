"""Two sets of factors -> how far apart their delta weights and their elements are.

Frobenius norms of products need only Gram matrices: ||up down||^2 = tr(up^T up down down^T).
Sums are float64, and so are the products unless all factors are float32, which shows six digits of
what is no difference. The delta weight is never formed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


def squared_norm(up: Tensor, down: Tensor) -> float:
    """||up @ down||_F^2 for up [m, k], down [k, n]."""
    return inner(up, down, up, down)


def inner(up: Tensor, down: Tensor, other_up: Tensor, other_down: Tensor) -> float:
    """<up @ down, other_up @ other_down>: [m, r] [r, n] against [m, k] [k, n]."""
    up, down, other_up, other_down = _of_one_dtype(up, down, other_up, other_down)
    left, right = up.T @ other_up, down @ other_down.T  # [r, k]
    return float((left.double() * right.double()).sum())


def _of_one_dtype(*factors: Tensor) -> tuple[Tensor, ...]:
    """float32 if all are, else float64."""
    dtype = torch.float32 if all(t.dtype == torch.float32 for t in factors) else torch.float64
    return tuple(t.to(dtype) for t in factors)


def squared_distance(
    up: Tensor,
    down: Tensor,
    other_up: Tensor,
    other_down: Tensor,
    *,
    scale: float = 1.0,
    own: float | None = None,
) -> float:
    """||scale * up @ down - other_up @ other_down||_F^2, of factors of unequal rank.

    Computed as a difference of norms: of float64 factors exact to some 1e-8 of ||up @ down||, and
    no further. `own` is ||scale * up @ down||_F^2 where that is known.
    """
    if own is None:
        own = squared_norm(up, down) * scale**2
    other = squared_norm(other_up, other_down)
    return max(0.0, own + other - 2 * scale * inner(up, down, other_up, other_down))


def squared_rounding(up: Tensor, down: Tensor, rounded_up: Tensor, rounded_down: Tensor) -> float:
    """The same for equal shapes, where a difference of norms would drown what rounding does.

    up down - up' down' = (up - up') down + up' (down - down').
    """
    up, down, rounded_up, rounded_down = _of_one_dtype(up, down, rounded_up, rounded_down)
    error_up, error_down = up - rounded_up, down - rounded_down
    return max(
        0.0,
        squared_norm(error_up, down)
        + squared_norm(rounded_up, error_down)
        + 2 * inner(error_up, down, rounded_up, error_down),
    )


def largest_element(tensor: Tensor) -> float:
    """max |tensor|; NaN if any element is."""
    low, high = tensor.aminmax()
    return max(-float(low), float(high))


@dataclass(slots=True)
class ElementError:
    """Sums over the elements of quantized tensors against what they stand for."""

    count: int = 0
    signal: float = 0.0
    squared: float = 0.0
    absolute: float = 0.0

    def add(self, tensor: Tensor, decoded: Tensor, gain: float = 1.0) -> None:
        """One tensor against what it decodes to, both times `gain`."""
        error = tensor - decoded
        self.count += tensor.numel()
        self.signal += float(tensor.square().sum()) * gain**2
        self.squared += float(error.square().sum()) * gain**2
        self.absolute += float(error.abs().sum()) * gain

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


def decibels(signal: float, noise: float) -> float | None:
    """Signal-to-noise ratio of two energies in dB; None where either is nothing."""
    return 10 * math.log10(signal / noise) if signal > 0 and noise > 0 else None
