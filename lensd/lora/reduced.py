"""What the reduction of one module gives: output tensors, and what its encoding changed."""

from __future__ import annotations

from ctypes import c_float
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from lensd.lora.encoding_choice import MAX_NOISE
from lensd.lora.fidelity import ElementError
from lensd.lora.int8 import Factors
from lensd.lora.plan import EIGHT_BITS, ModulePlan


class Products(NamedTuple):
    """Inner products for the error of a module, which `exact` are float64."""

    inner: float  # <up @ down, up' @ down'> of the stored factors and those of the output
    squared_norm: float  # ||up' @ down'||^2
    exact: bool


@dataclass(frozen=True, slots=True)
class Reduced:
    """The output of one module, and the error that its encoding added to the delta weight."""

    plan: ModulePlan
    factors: Factors  # of the output's dtype, with the elements of up [out, k] and down [k, in]
    own_alpha: float | None  # as float32 has it
    squared_signal: float  # ||delta_k||_F^2 of the truncation
    squared_error: float  # ||delta_k - encoded||_F^2
    elements: ElementError = field(default_factory=ElementError)
    better_in_bfloat16: bool = False  # float16 made subnormals of wider weights, and lost more
    products: Products | None = None  # where the kernels measured them
    data: tuple[memoryview, memoryview] | None = None  # bytes of down and up, where known

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The tensors of the output by their keys."""
        m = self.plan.module
        up, down = m.shapes_at(self.plan.rank)
        found = {m.up: self.factors.up.reshape(up), m.down: self.factors.down.reshape(down)}
        if self.own_alpha is not None:
            found[m.alpha_key] = torch.tensor(self.own_alpha, dtype=torch.float32)
        return found

    @property
    def up(self) -> Tensor:
        """[k, out]: the transpose of the factor that a loader reads."""
        return self.factors.up.reshape(-1, self.plan.rank).T

    @property
    def down(self) -> Tensor:
        """[k, in * kernel], as a loader reads it."""
        return self.factors.down.reshape(self.plan.rank, -1)

    @property
    def scale(self) -> float:
        """The number by which a loader multiplies the product of the factors: alpha / rank."""
        return 1.0 if self.own_alpha is None else self.own_alpha / self.plan.rank

    @property
    def too_noisy(self) -> bool:
        """Whether the 8-bit error exceeds MAX_NOISE, so that the module needs another encoding.

        The overflow guard of int8 can cause that, and elements that are too small for float8.
        """
        loss = self.squared_error / self.squared_signal if self.squared_signal else 0.0
        return self.plan.encoding in EIGHT_BITS and not loss <= MAX_NOISE**2  # also NaN


def as_float32(number: float) -> float:
    """Return the nearest float32, which is infinite for numbers that are too large."""
    return c_float(number).value
