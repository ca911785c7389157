"""Singular spectra shaped like those of trained LoRAs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Profile = Callable[[Floats, float], Floats]

# How the energy of the k-th value (k = 0, 1, …) falls, steeper with t. The stretched exponential
# fits most trained files; the others stand for fast, heavy-tailed and nearly rank-1 modules.
PROFILES: dict[str, Profile] = {
    "stretched": lambda k, t: np.exp(-2.0 * (t * k) ** 0.6),
    "exponential": lambda k, t: np.exp(-2.0 * t * k),
    "power": lambda k, t: (k + 1.0) ** (-2.0 * t),
    "spike": lambda k, t: np.where(k == 0, 10.0, (k + 1.0) ** (-2.0 * t)),
}
SHARES = {"stretched": 0.45, "exponential": 0.2, "power": 0.15, "spike": 0.2}

# What no trained file is free of: a share of the energy spread evenly over all directions.
NOISE = 0.002


def spectrum(profile: str, rank: int, effective: float) -> Floats:
    """`rank` falling values of unit norm, of which the first `effective` hold 99 % of the energy.

    Of a fraction, as trained files have it, the next value counts in part. Where the profile
    cannot reach that (an effective rank near the rank itself), the flattest or steepest spectrum
    that it has is returned.
    """
    k = np.arange(rank, dtype=np.float64)
    counted = np.clip(np.clip(effective, 1, rank) - k, 0, 1)

    def energies(t: float) -> Floats:
        fall = PROFILES[profile](k, t)
        return (1.0 - NOISE) * fall / fall.sum() + NOISE / rank

    flat, steep = 0.0, 64.0
    for _ in range(60):
        middle = (flat + steep) / 2.0
        if energies(middle) @ counted < 0.99:
            flat = middle
        else:
            steep = middle
    return np.sqrt(energies(steep))


def draw(rng: np.random.Generator, rank: int, median: float, spread: float = 0.5) -> Floats:
    """The spectrum of one module, its profile and effective rank as varied as in trained files."""
    profile = rng.choice(list(SHARES), p=list(SHARES.values()))
    return spectrum(str(profile), rank, median * float(np.exp(spread * rng.standard_normal())))
