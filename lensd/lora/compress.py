"""reduce: one module's factors -> its output tensors, as its plan has it; and back.

Module by module, so that neither input nor output is ever whole in memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lensd.lora import fidelity, int8, spectrum
from lensd.lora.layout import Module
from lensd.lora.planning import WIDE_DTYPES, ModulePlan, Reading
from lensd.lora.spectrum import Core

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
    sizes = fidelity.largest_element(up), fidelity.largest_element(down)
    alpha = alpha or float(module.rank)  # kohya: 0 means the rank
    if not all(x <= FLOAT32_MAX for x in (*sizes, abs(alpha))):  # NaN compares as false
        return None
    core = spectrum.core(up, down)
    values = core.values.cpu() * abs(alpha / module.rank)
    if not float(values[0]) <= FLOAT32_MAX:
        return None
    exact = module.dtype in WIDE_DTYPES and _is_bfloat16(up) and _is_bfloat16(down)
    return Reading(module, alpha, values, exact, max(sizes), core)


def flatten(up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """Convolution factors as matrices: up [out, r], down [r, in * kh * kw]."""
    return up.reshape(up.shape[0], up.shape[1]), down.reshape(down.shape[0], -1)


def _is_bfloat16(tensor: Tensor) -> bool:
    return bool((tensor.bfloat16().to(tensor.dtype) == tensor).all())


def reduce(m: ModulePlan, up: Tensor, down: Tensor, core: Core | None = None) -> Reduced:
    """One module's factors, as stored -> its output tensors, by key.

    `core` is what the first pass found; without it, or with too few of its vectors, it is computed
    again, with the same result.
    """
    shapes = m.module.shapes_at(m.rank)
    if m.same:
        tensors = {m.module.up: up, m.module.down: down}
        return _reduced(m, tensors, m.energy, 0.0)
    up, down = flatten(up, down)
    if m.encoding == "I8":
        # At the full rank the factors as they are may have the smaller elements.
        originals = [_balanced(up.double() * m.scale, down)] if m.rank == m.module.rank else []
        return _to_int8(m, *_truncate(m, up, down, core), shapes, originals)
    left, right = _float_factors(m, up, down, core)
    dtype = TORCH_DTYPE[m.encoding]
    tensors = {m.module.up: left.to(dtype), m.module.down: right.to(dtype)}
    error = fidelity.squared_rounding(left, right, *tensors.values()) * m.out_scale**2
    tensors = {k: t.reshape(s) for (k, t), s in zip(tensors.items(), shapes, strict=True)}
    return _reduced(m, tensors, m.energy * m.retained, error)


def _float_factors(
    m: ModulePlan, up: Tensor, down: Tensor, core: Core | None
) -> tuple[Tensor, Tensor]:
    """Factors with delta = out_scale * up @ down, float64 or float32."""
    ratio = m.scale / m.out_scale
    if m.rank != m.module.rank:
        left, right = _truncate(m, up, down, core)
        spread = abs(m.out_scale) ** -0.5
        return left * math.copysign(spread, m.out_scale), right * spread
    # The rescale goes into `up`; `down` is only converted. Into float16 a power of two moves over
    # as well: small weights of a wider format would vanish below what it can hold.
    narrowed = m.module.dtype in WIDE_DTYPES and m.encoding == "F16"
    balance = _balance(up, down) if narrowed else 1.0
    return up.double() * (ratio * balance), down.double() / balance


def _balance(up: Tensor, down: Tensor) -> float:
    """The power of two c that brings the largest elements of c up and down / c together."""
    high, low = fidelity.largest_element(down), fidelity.largest_element(up)
    return 2.0 ** round(math.log2(high / low) / 2) if high > 0 and low > 0 else 1.0


def _balanced(up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """The same product with both factors well within float32."""
    up, down = up.double(), down.double()
    balance = _balance(up, down)
    return up * balance, down / balance


def _truncate(
    m: ModulePlan, up: Tensor, down: Tensor, core: Core | None = None
) -> tuple[Tensor, Tensor]:
    """delta's best approximation of the planned rank, singular values split evenly.

    float32, exact far beyond 8 or 16 bits, unless the output is to have more or the numbers are
    near the ends of its range; then float64.
    """
    if core is None or core.left.shape[1] < m.rank:
        core = spectrum.core(up, down)
    left, right = spectrum.truncation(core, m.rank)
    spread = abs(m.scale) ** 0.5
    left, right = left * math.copysign(spread, m.scale), right * spread
    if m.encoding not in WIDE_DTYPES and _is_tame(left) and _is_tame(right):
        result = up.float() @ left.float(), right.float() @ down.float()
        if all(map(_is_tame, result)):
            return result
    return up.double() @ left, right @ down.double()


def _is_tame(tensor: Tensor) -> bool:
    """Whether float32 holds it with room for products."""
    return 1e-15 < fidelity.largest_element(tensor) < 1e15


def _to_int8(
    m: ModulePlan,
    up: Tensor,
    down: Tensor,
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
    others: Sequence[tuple[Tensor, Tensor]],
) -> Reduced:
    q = int8.quantize(up.float(), down.float(), *((f.float(), g.float()) for f, g in others))
    alpha = torch.tensor(q.scale**2 * m.rank, dtype=torch.float32)
    tensors = {m.module.up: q.up.reshape(shapes[0]), m.module.down: q.down.reshape(shapes[1])}
    tensors[m.module.alpha_key] = alpha
    decoded = q.decoded()
    elements = fidelity.ElementError()
    gain = abs(m.out_scale) ** -0.5  # the float factors of a file with this alpha
    for exact, rounded in zip((q.exact_up, q.exact_down), decoded, strict=True):
        elements.add(exact, rounded, gain)
    return Reduced(m, tensors, m.energy * m.retained, q.squared_noise, elements)


def _reduced(m: ModulePlan, tensors: dict[str, Tensor], signal: float, error: float) -> Reduced:
    if m.alpha is not None:
        tensors[m.module.alpha_key] = torch.tensor(m.alpha, dtype=torch.float32)
    return Reduced(m, tensors, signal, error)


def decode(m: ModulePlan, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """What a loader computes with: float64 up [out, k] and down [k, in] with delta = up @ down."""
    up, down = flatten(tensors[m.module.up], tensors[m.module.down])
    alpha = tensors.get(m.module.alpha_key)
    scale = 1.0 if alpha is None else float(alpha) / down.shape[0]
    return up.double() * scale, down.double()


def squared_error(r: Reduced, up: Tensor, down: Tensor) -> float:
    """||delta - what a loader sees||_F^2 of a module, against its factors as stored."""
    if r.plan.same:
        return 0.0
    up, down = (t.double() for t in flatten(up, down))
    seen = decode(r.plan, r.tensors)
    return fidelity.squared_distance(up, down, *seen, scale=r.plan.scale, own=r.plan.energy)
