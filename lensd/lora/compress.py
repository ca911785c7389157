"""reduce: one module's factors -> its output tensors, as its plan has it; and back.

Module by module, so that neither input nor output is ever whole in memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from lensd.lora import fidelity, int8, spectrum
from lensd.lora.layout import Module
from lensd.lora.planning import WIDE_DTYPES, ModulePlan, Reading

TORCH_DTYPE = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
}
# Relative delta error of the quantization alone. Typical is 0.015; truncation at 99 % has 0.1.
MAX_NOISE = 0.05
FLOAT32_MAX = torch.finfo(torch.float32).max


@dataclass(frozen=True, slots=True)
class Reduced:
    """One module's output, and what encoding it did to the delta weight."""

    plan: ModulePlan
    tensors: Mapping[str, Tensor]
    squared_signal: float  # ||delta_k||_F^2 of the truncation
    squared_error: float  # ||delta_k - encoded||_F^2
    elements: fidelity.ElementError = field(default_factory=fidelity.ElementError)

    @property
    def too_noisy(self) -> bool:
        """Whether int8 costs this module too much, as the guard can do: it is better a float."""
        loss = self.squared_error / self.squared_signal if self.squared_signal else 0.0
        return self.plan.encoding == "I8" and loss > MAX_NOISE**2


def read_module(module: Module, up: Tensor, down: Tensor, alpha: float | None) -> Reading | None:
    """First pass over one module: up [out, r, ...], down [r, in, ...], as stored.

    None if a weight, the alpha or the delta weight is NaN or infinite, in float32 at the latest.
    """
    up, down = flatten(up, down)
    largest = float(torch.maximum(up.abs().max(), down.abs().max()))
    alpha = alpha or float(module.rank)  # kohya: 0 means the rank
    if not (largest <= FLOAT32_MAX and abs(alpha) <= FLOAT32_MAX):  # NaN compares as false
        return None
    values = spectrum.core(up, down).values.cpu() * abs(alpha / module.rank)
    if not float(values[0]) <= FLOAT32_MAX:
        return None
    exact = _is_bfloat16(up) and _is_bfloat16(down)
    return Reading(module, alpha, values, exact, largest)


def flatten(up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """Convolution factors as matrices: up [out, r], down [r, in * kh * kw]."""
    return up.reshape(up.shape[0], up.shape[1]), down.reshape(down.shape[0], -1)


def _is_bfloat16(tensor: Tensor) -> bool:
    return bool((tensor.bfloat16().to(tensor.dtype) == tensor).all())


def reduce(m: ModulePlan, up: Tensor, down: Tensor) -> Reduced:
    """One module's factors, as stored -> its output tensors, by key."""
    shapes = m.module.shapes_at(m.rank)
    if m.same:
        tensors = {m.module.up: up, m.module.down: down}
        return _reduced(m, tensors, m.energy, 0.0)
    up, down = flatten(up, down)
    if m.encoding == "I8":
        # At the full rank the factors as they are may have the smaller elements.
        originals = [_balanced(up.double() * m.scale, down)] if m.rank == m.module.rank else []
        return _to_int8(m, *_truncate(m, up, down), shapes, originals)
    left, right = _float_factors(m, up, down)
    dtype = TORCH_DTYPE[m.encoding]
    tensors = {m.module.up: left.to(dtype), m.module.down: right.to(dtype)}
    signal = fidelity.squared_norm(left, right) * m.out_scale**2
    error = fidelity.squared_rounding(left, right, *tensors.values()) * m.out_scale**2
    tensors = {k: t.reshape(s) for (k, t), s in zip(tensors.items(), shapes, strict=True)}
    return _reduced(m, tensors, signal, error)


def _float_factors(m: ModulePlan, up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """Factors with delta = out_scale * up @ down, float64."""
    ratio = m.scale / m.out_scale
    if m.rank != m.module.rank:
        left, right = _truncate(m, up, down)
        spread = abs(m.out_scale) ** -0.5
        return left * math.copysign(spread, m.out_scale), right * spread
    # The rescale goes into `up`; `down` is only converted. Into float16 a power of two moves over
    # as well: small weights of a wider format would vanish below what it can hold.
    narrowed = m.module.dtype in WIDE_DTYPES and m.encoding == "F16"
    balance = _balance(up, down) if narrowed else 1.0
    return up.double() * (ratio * balance), down.double() / balance


def _balance(up: Tensor, down: Tensor) -> float:
    """The power of two c that brings the largest elements of c up and down / c together."""
    high, low = float(down.abs().max()), float(up.abs().max())
    return 2.0 ** round(math.log2(high / low) / 2) if high > 0 and low > 0 else 1.0


def _balanced(up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """The same product with both factors well within float32."""
    up, down = up.double(), down.double()
    balance = _balance(up, down)
    return up * balance, down / balance


def _truncate(m: ModulePlan, up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """delta's best approximation of the planned rank, float64, singular values split evenly."""
    left, right = spectrum.truncation(spectrum.core(up, down), m.rank)
    spread = abs(m.scale) ** 0.5
    return up.double() @ left * math.copysign(spread, m.scale), right @ down.double() * spread


def _to_int8(
    m: ModulePlan,
    up: Tensor,
    down: Tensor,
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
    others: Sequence[tuple[Tensor, Tensor]],
) -> Reduced:
    # float32 is twice as fast, and exact far beyond 8 bits
    q = int8.quantize(up.float(), down.float(), *((f.float(), g.float()) for f, g in others))
    alpha = torch.tensor(q.scale**2 * m.rank, dtype=torch.float32)
    tensors = {m.module.up: q.up.reshape(shapes[0]), m.module.down: q.down.reshape(shapes[1])}
    tensors[m.module.alpha_key] = alpha
    decoded = q.decoded()
    elements = fidelity.ElementError()
    gain = abs(m.out_scale) ** -0.5  # the float factors of a file with this alpha
    for exact, rounded in zip((q.exact_up, q.exact_down), decoded, strict=True):
        elements.add(exact * gain, rounded * gain)
    signal = fidelity.squared_norm(up, down)
    error = int8.squared_noise(q)
    return Reduced(m, tensors, signal, error, elements)


def _reduced(m: ModulePlan, tensors: dict[str, Tensor], signal: float, error: float) -> Reduced:
    if m.alpha is not None:
        tensors[m.module.alpha_key] = torch.tensor(m.alpha, dtype=torch.float32)
    return Reduced(m, tensors, signal, error)


def without_tensors(reduced: Reduced) -> Reduced:
    """The same measures, so that the tensors can go."""
    return replace(reduced, tensors={})


def decode(m: ModulePlan, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """What a loader computes with: float64 up [out, k] and down [k, in] with delta = up @ down."""
    up, down = flatten(tensors[m.module.up], tensors[m.module.down])
    alpha = tensors.get(m.module.alpha_key)
    scale = 1.0 if alpha is None else float(alpha) / down.shape[0]
    return up.double() * scale, down.double()
