"""Summarize the spectrum of a whole file as a short curve: the energy in its first ranks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

# Two ranks per octave where most of the energy lies, then one: short enough for a log line.
STEPS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, *(2**n for n in range(7, 16)))
DIGITS = 5


def curve(spectra: Sequence[Tensor]) -> tuple[list[int], list[float]]:
    """Return ranks k, and for each k the share of the file's energy in the first k ranks.

    `spectra`: the singular values [r] of every module, descending. The first k ranks are those of
    every module. The last k is the largest r and has share 1. Between two points the true share
    lies on or above the straight line, because each further rank adds less energy. In a file of
    zeros every share is 1.
    """
    longest = max(values.numel() for values in spectra)
    added = np.zeros(longest)
    for values in spectra:
        added[: values.numel()] += np.square(values.double().numpy())
    cumulative = added.cumsum()
    ranks = [step for step in STEPS if step < longest] + [longest]
    total = float(cumulative[-1])
    shares = [float(cumulative[rank - 1]) / total if total > 0 else 1.0 for rank in ranks]
    return ranks, [round(share, DIGITS) for share in shares]
