"""Two sets of factors -> how far apart their delta weights and their elements are.

Frobenius norms of products need only Gram matrices: ||up down||^2 = tr(up^T up down down^T).
All sums are float64; the delta weight is never formed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor


def squared_norm(up: Tensor, down: Tensor) -> float:
    """||up @ down||_F^2 for up [m, k], down [k, n]."""
    return inner(up, down, up, down)


def inner(up: Tensor, down: Tensor, other_up: Tensor, other_down: Tensor) -> float:
    """<up @ down, other_up @ other_down>: [m, r] [r, n] against [m, k] [k, n]."""
    left = up.double().T @ other_up.double()  # [r, k]
    right = down.double() @ other_down.double().T  # [r, k]
    return float((left * right).sum())


def squared_distance(up: Tensor, down: Tensor, other_up: Tensor, other_down: Tensor) -> float:
    """||up @ down - other_up @ other_down||_F^2, of factors of unequal rank.

    Computed as a difference of norms: exact to some 1e-8 of ||up @ down|| and no further.
    """
    own, other = squared_norm(up, down), squared_norm(other_up, other_down)
    return max(0.0, own + other - 2 * inner(up, down, other_up, other_down))


def squared_rounding(up: Tensor, down: Tensor, rounded_up: Tensor, rounded_down: Tensor) -> float:
    """The same for equal shapes, where a difference of norms would drown what rounding does.

    up down - up' down' = (up - up') down + up' (down - down').
    """
    up, down, rounded_up, rounded_down = (t.double() for t in (up, down, rounded_up, rounded_down))
    error_up, error_down = up - rounded_up, down - rounded_down
    return max(
        0.0,
        squared_norm(error_up, down)
        + squared_norm(rounded_up, error_down)
        + 2 * inner(error_up, down, rounded_up, error_down),
    )


@dataclass(slots=True)
class ElementError:
    """Sums over the elements of quantized tensors against what they stand for."""

    count: int = 0
    signal: float = 0.0
    squared: float = 0.0
    absolute: float = 0.0

    def add(self, tensor: Tensor, decoded: Tensor) -> None:
        tensor = tensor.double()
        error = tensor - decoded.double()
        self.count += tensor.numel()
        self.signal += float(tensor.square().sum())
        self.squared += float(error.square().sum())
        self.absolute += float(error.abs().sum())

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
