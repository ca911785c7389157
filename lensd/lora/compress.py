"""reduce: modules' factors -> their output tensors, as the plan has it; and back.

A few modules at a time, so that neither input nor output is ever whole in memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lensd.lora import fidelity, int8, spectrum
from lensd.lora.fidelity import ElementError, largest_elements
from lensd.lora.int8 import Factors
from lensd.lora.planning import WIDE_DTYPES, ModulePlan
from lensd.lora.products import gram, product, quick_gram
from lensd.lora.reading import QUICK_RANK, flatten
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
# Of the energy, times the cancellation: where a squared error is larger, float32 tells six digits.
QUICK_ERROR = 3e-3
# Relative delta error of the quantization alone. Typical is 0.015; truncation at 99 % has 0.1.
MAX_NOISE = 0.05


@dataclass(frozen=True, slots=True)
class Reduced:
    """One module's output, and what encoding it did to the delta weight."""

    plan: ModulePlan
    tensors: Mapping[str, Tensor]
    squared_signal: float  # ||delta_k||_F^2 of the truncation
    squared_error: float  # ||delta_k - encoded||_F^2
    elements: ElementError = field(default_factory=ElementError)

    @property
    def up(self) -> Tensor:
        """[k, out], as a loader reads it."""
        up = self.tensors[self.plan.module.up]
        return up.reshape(len(up), -1).T

    @property
    def down(self) -> Tensor:
        """[k, in * kernel]."""
        return self.tensors[self.plan.module.down].flatten(1)

    @property
    def scale(self) -> float:
        """What a loader multiplies their product by."""
        alpha = self.tensors.get(self.plan.module.alpha_key)
        return 1.0 if alpha is None else float(alpha) / self.plan.rank

    @property
    def too_noisy(self) -> bool:
        """Whether int8 costs this module too much, as the guard can do: it is better a float."""
        loss = self.squared_error / self.squared_signal if self.squared_signal else 0.0
        return self.plan.encoding == "I8" and loss > MAX_NOISE**2


def reduce(m: ModulePlan, up: Tensor, down: Tensor) -> Reduced:
    """One module's factors, as stored -> its output tensors, by key."""
    up, down = flatten(up, down)
    return reduce_all([m], Factors(up[None], down[None]), [None])[0]


def alike(m: ModulePlan) -> tuple[object, ...]:
    """What modules that `reduce_all` takes together have in common, beside their factors."""
    return m.same, m.encoding, m.rank == m.module.rank


def reduce_all(
    plans: Sequence[ModulePlan], stored: Factors, cores: Sequence[Core | None]
) -> list[Reduced]:
    """The same of b modules of one shape and dtype that are `alike`.

    `cores` are what the first pass found; without one, or with too few of its vectors, it is
    computed again.
    """
    if plans[0].same:
        pairs = zip(plans, *stored, strict=True)
        return [Reduced(m, _tensors(m, u, d, m.alpha), m.energy, 0.0) for m, u, d in pairs]
    if plans[0].encoding == "I8":
        return _to_int8(plans, stored, cores)
    return _to_floats(plans, stored, cores)


def _to_floats(
    plans: Sequence[ModulePlan], stored: Factors, cores: Sequence[Core | None]
) -> list[Reduced]:
    exact = _float_factors(plans, stored, cores)
    encoded = Factors(*(t.to(TORCH_DTYPE[plans[0].encoding]) for t in exact))
    decoded = Factors(*(t.to(e) for t, e in zip(encoded, exact, strict=True)))
    errors = fidelity.squared_roundings(*exact, *decoded).tolist()
    return [
        Reduced(
            m,
            _tensors(m, encoded.up[at, :, : m.rank], encoded.down[at, : m.rank], m.alpha),
            m.energy * m.retained,
            errors[at] * m.out_scale**2,
        )
        for at, m in enumerate(plans)
    ]


def _float_factors(
    plans: Sequence[ModulePlan], stored: Factors, cores: Sequence[Core | None]
) -> Factors:
    """Factors with delta = out_scale * up @ down, float64 or float32."""
    m = plans[0]
    if m.rank != m.module.rank:
        left, right = truncate_all(plans, stored, cores)
        spread = [abs(m.out_scale) ** -0.5 for m in plans]
        signed = [math.copysign(s, m.out_scale) for s, m in zip(spread, plans, strict=True)]
        return Factors(left * _column(signed, left), right * _column(spread, right))
    # The rescale goes into `up`; `down` is only converted. Into float16 a power of two moves over
    # as well: small weights of a wider format would vanish below what it can hold.
    narrowed = m.module.dtype in WIDE_DTYPES and m.encoding == "F16"
    ones = [1.0] * len(plans)
    balances = _balances(stored, ones) if narrowed else ones
    ratios = [m.scale / m.out_scale * c for m, c in zip(plans, balances, strict=True)]
    up, down = (t.double() for t in stored)
    return Factors(up * _column(ratios, up), down / _column(balances, down))


def _balances(factors: Factors, scales: Iterable[float]) -> list[float]:
    """Powers of two c that bring the largest elements of c scale up and down / c together."""
    highs, lows = (largest_elements(t).tolist() for t in (factors.down, factors.up))
    return [
        2.0 ** round(math.log2(high / low / scale) / 2) if min(high, low, scale) > 0 else 1.0
        for high, low, scale in zip(highs, lows, scales, strict=True)
    ]


def _column(numbers: Sequence[float], like: Tensor) -> Tensor:
    """One number for each matrix [b, ...] of `like`."""
    return like.new_tensor(numbers)[:, None, None]


def truncate_all(
    plans: Sequence[ModulePlan], stored: Factors, cores: Sequence[Core | None]
) -> Factors:
    """delta's best approximation of the planned rank, singular values split evenly.

    float32, exact far beyond 8 or 16 bits, unless the output is to have more or the numbers are
    near the ends of its range; then float64. Zero beyond a module's own rank.
    """
    halves = _halves(plans, stored, cores)
    if plans[0].encoding not in WIDE_DTYPES and _are_tame(halves):
        up, down = (t.float() for t in halves)
        result = Factors(product(stored.up.float(), up), product(down, stored.down.float()))
        if _are_tame(result):
            return result
    return Factors(
        product(stored.up.double(), halves.up), product(halves.down, stored.down.double())
    )


def _halves(plans: Sequence[ModulePlan], stored: Factors, cores: Sequence[Core | None]) -> Factors:
    """A [b, r, k] and B [b, k, r] with delta_k = (up A)(B down), float64."""
    rank, size = stored.up.shape[-1], max(m.rank for m in plans)
    up = stored.up.new_zeros(len(plans), rank, size, dtype=torch.float64)
    down = torch.zeros_like(up.mT)
    for at, (m, found) in enumerate(zip(plans, cores, strict=True)):
        if found is not None and found.left.shape[1] >= m.rank:
            core = found
        else:
            core = spectrum.core(stored.up[at], stored.down[at])
        left, right = spectrum.truncation(core, m.rank)
        spread = abs(m.scale) ** 0.5
        up[at, :, : m.rank] = left * math.copysign(spread, m.scale)
        down[at, : m.rank] = right * spread
    return Factors(up, down)


def _are_tame(factors: Factors) -> bool:
    """Whether float32 holds them with room for products."""
    sizes = torch.stack([largest_elements(t) for t in factors])
    return bool(((sizes == 0) | (sizes > 1e-15) & (sizes < 1e15)).all())


def _to_int8(
    plans: Sequence[ModulePlan], stored: Factors, cores: Sequence[Core | None]
) -> list[Reduced]:
    quantized = int8.quantize_all(*_in_best_gauge(plans, stored, cores), [m.rank for m in plans])
    return [_as_int8(m, q) for m, q in zip(plans, quantized, strict=True)]


def _in_best_gauge(
    plans: Sequence[ModulePlan], stored: Factors, cores: Sequence[Core | None]
) -> tuple[Factors, list[float]]:
    """float32 factors of delta_k, and their steps. What they were chosen from is free again."""
    ranks = [m.rank for m in plans]
    factors = Factors(*(t.float() for t in truncate_all(plans, stored, cores)))
    if plans[0].rank != plans[0].module.rank:
        return int8.best_gauge(factors, ranks)
    # At the full rank the factors as they are may have the smaller elements.
    return int8.best_gauge(factors, ranks, _balanced(plans, stored))


def _balanced(plans: Sequence[ModulePlan], stored: Factors) -> Factors:
    """delta's factors as they are, float32, both well within its range."""
    # the range of float64 for one side at a time
    balances = _balances(stored, [abs(m.scale) for m in plans])
    gains = [m.scale * c for m, c in zip(plans, balances, strict=True)]
    up = stored.up.to(torch.float64, copy=True)
    up = up.mul_(_column(gains, up)).float()
    down = stored.down.to(torch.float64, copy=True)
    return Factors(up, down.div_(_column(balances, down)).float())


def _as_int8(m: ModulePlan, q: int8.Quantized) -> Reduced:
    gain = abs(m.out_scale) ** -0.5  # the float factors of a file with this alpha
    tensors = _tensors(m, q.up, q.down, q.scale**2 * m.rank)
    return Reduced(m, tensors, m.energy * m.retained, q.squared_noise, q.elements.scaled(gain))


def _tensors(m: ModulePlan, up: Tensor, down: Tensor, alpha: float | None) -> dict[str, Tensor]:
    """By key: up [out, k] and down [k, in], already in the output's dtype, and alpha."""
    up_shape, down_shape = m.module.shapes_at(m.rank)
    tensors = {m.module.up: up.reshape(up_shape), m.module.down: down.reshape(down_shape)}
    if alpha is not None:
        tensors[m.module.alpha_key] = torch.tensor(alpha, dtype=torch.float32)
    return tensors


def squared_errors(
    reduced: Sequence[Reduced], stored: Factors, cores: Sequence[Core | None]
) -> list[float]:
    """||delta - what a loader sees||_F^2 of modules reduced together, against their factors.

    A difference of norms. In float64 it is exact to some 1e-8 of ||delta||; in float32, for large
    ranks and where the difference is not small, to some 1e-6 of itself.
    """
    m = reduced[0].plan
    if m.same:
        return [0.0] * len(reduced)
    large = m.module.rank >= QUICK_RANK and m.rank < m.module.rank
    if stored.up.dtype != torch.float32 or not large:
        return _differences(reduced, stored, torch.float64)
    found = _differences(reduced, stored, torch.float32)
    small = [at for at, r in enumerate(reduced) if not found[at] >= _least(r.plan, cores[at])]
    if small:
        few, theirs = [reduced[at] for at in small], Factors(*(t[small] for t in stored))
        for at, careful in zip(small, _differences(few, theirs, torch.float64), strict=True):
            found[at] = careful
    return found


def _least(m: ModulePlan, core: Core | None) -> float:
    """The smallest squared error that float32 tells."""
    return math.inf if core is None else QUICK_ERROR * float(core.cancellation) * m.energy


def _differences(reduced: Sequence[Reduced], stored: Factors, dtype: torch.dtype) -> list[float]:
    # one side after the other: at full rank both together are 100 MB of float64
    crossed, squared = zip(
        _crossed_and_squared(stored.up.mT, [r.up for r in reduced], dtype),
        _crossed_and_squared(stored.down, [r.down for r in reduced], dtype),
        strict=True,
    )
    shared = (crossed[0] * crossed[1]).sum((-2, -1)).tolist()
    after = (squared[0] * squared[1]).sum((-2, -1)).tolist()
    return [
        max(0.0, m.energy + r.scale**2 * own - 2 * m.scale * r.scale * both)
        for r, m, both, own in zip(reduced, (r.plan for r in reduced), shared, after, strict=True)
    ]


def _crossed_and_squared(
    stored: Tensor, encoded: Sequence[Tensor], dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """X Y^T [b, r, k] and Y Y^T [b, k, k] of X [b, r, n] and each Y [ki, n]; as float64."""
    most = max(map(len, encoded))
    seen = stored.new_zeros(len(encoded), most, stored.shape[-1], dtype=dtype)
    for at, factor in enumerate(encoded):
        seen[at, : len(factor)] = factor
    squared = quick_gram(seen) if dtype == torch.float32 else gram(seen)
    return product(stored.to(dtype), seen.mT).double(), squared
