"""The spectrum of a whole file as a short curve: what the first ranks of all modules hold."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Two an octave while most of the energy comes, then one: short enough for a log line.
STEPS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, *(2**n for n in range(7, 16)))
DIGITS = 5


def curve(spectra: Sequence[Tensor]) -> tuple[list[int], list[float]]:
    """Ranks, and the share of the file's energy that the first so many of each module hold.

    `spectra`: singular values of every module [r], descending. The last rank is the largest r and
    holds all. Between two points the truth lies on or above the straight line, since what each
    further rank brings descends. A file of zeros holds all at once.
    """
    longest = max(len(values) for values in spectra)
    brought = torch.zeros(longest, dtype=torch.float64)
    for values in spectra:
        brought[: len(values)] += values.double().square()
    held = brought.cumsum(0)
    ranks = [step for step in STEPS if step < longest] + [longest]
    total = float(held[-1])
    shares = [float(held[rank - 1]) / total if total > 0 else 1.0 for rank in ranks]
    return ranks, [round(share, DIGITS) for share in shares]
