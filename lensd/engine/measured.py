"""One module of an output as it was measured, and the check of its error."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from lensd.errors import Failed, Reason
from lensd.lora.composites import CompositePlan
from lensd.lora.fidelity import ElementError
from lensd.lora.plan import ModulePlan
from lensd.lora.reduced import Reduced

# Besides its rounding error, a module may differ from its plan by this share of its norm.
VERIFY_SLACK = 1e-4
SMALLEST_NORM = torch.finfo(torch.float32).tiny  # programs compute smaller ones as zero


@dataclass(frozen=True, slots=True)
class Measured:
    """One module of an output, compared with its original and with its plan."""

    plan: ModulePlan | CompositePlan
    squared_error: float  # ||delta - delta that a loader computes||_F^2
    squared_signal: float  # ||delta_k||_F^2 before encoding
    squared_noise: float  # ||delta_k - delta that a loader computes||_F^2
    elements: ElementError
    too_noisy: bool  # its 8-bit encoding costs too much precision
    better_in_bfloat16: bool = False  # than in float16

    @property
    def relative_error(self) -> float:
        return (self.squared_error / self.plan.energy) ** 0.5 if self.plan.energy else 0.0

    @classmethod
    def of(cls, reduced: Reduced, squared_error: float) -> Measured:
        return cls(
            reduced.plan,
            squared_error,
            reduced.squared_signal,
            reduced.squared_error,
            reduced.elements,
            reduced.too_noisy,
            reduced.better_in_bfloat16,
        )


def check_error(m: Measured) -> None:
    """Compare a module's error with the bound from truncation and rounding (triangle inequality).

    Raises Failed(`verify_failed`), or Failed(`not_finite`) where the output's number format cannot
    hold the module.
    """
    if not math.isfinite(m.squared_noise):
        raise Failed(
            Reason.NOT_FINITE,
            f"the weights of module {m.plan.module.name}, times alpha / rank ({m.plan.scale:.3g}), "
            f"are too large for {m.plan.encoding}; the file is broken: download or train it again",
        )
    planned = (m.plan.energy * (1 - m.plan.retained)) ** 0.5 + m.squared_noise**0.5
    allowed = planned + VERIFY_SLACK * m.plan.energy**0.5 + SMALLEST_NORM
    if not m.squared_error**0.5 <= allowed:  # also when it is NaN
        raise Failed(
            Reason.VERIFY_FAILED,
            f"module {m.plan.module.name} of the output differs from the original by "
            f"{m.relative_error:.3g} of its norm, more than planned; nothing was replaced. "
            "Please report this with the file's name",
        )
