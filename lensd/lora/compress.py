"""Reduce modules as planned: compute their output tensors, and the error that these have.

The caller passes a few modules at a time, so that neither the input nor the output has to fit in
memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lensd.lora import fidelity, float8, int8, spectrum
from lensd.lora._kernels import calls
from lensd.lora.dtypes import TORCH_DTYPE
from lensd.lora.fidelity import ElementError, largest_elements
from lensd.lora.int8 import Factors
from lensd.lora.planning import EIGHT_BITS, MAX_NOISE, ModulePlan
from lensd.lora.products import down_product, gram, product, quick_gram, up_product
from lensd.lora.reading import QUICK_RANK, flatten, widen
from lensd.lora.shortening import form_delta, is_excessive, shorten
from lensd.lora.spectrum import Core
from lensd.lora.tensor_spec import WIDE_DTYPES

# A squared error that is larger than this share of the module's energy, times the cancellation, is
# exact to six digits when computed in float32.
FLOAT32_ERROR_SHARE = 3e-3
# A relative squared error that float16 exceeds only where it has subnormals: their steps do not
# become smaller with the number. It is typically 1e-7, and 6e-6 in bfloat16.
SUBNORMAL_LOSS = 1e-6


@dataclass(frozen=True, slots=True)
class Reduced:
    """The output of one module, and the error that its encoding added to the delta weight."""

    plan: ModulePlan
    tensors: Mapping[str, Tensor]
    squared_signal: float  # ||delta_k||_F^2 of the truncation
    squared_error: float  # ||delta_k - encoded||_F^2
    elements: ElementError = field(default_factory=ElementError)
    better_in_bfloat16: bool = False  # float16 made subnormals of wider weights, and lost more

    @property
    def up(self) -> Tensor:
        """[k, out]: the transpose of the factor that a loader reads."""
        up = self.tensors[self.plan.module.up]
        return up.reshape(len(up), -1).T

    @property
    def down(self) -> Tensor:
        """[k, in * kernel], as a loader reads it."""
        return self.tensors[self.plan.module.down].flatten(1)

    @property
    def scale(self) -> float:
        """The number by which a loader multiplies the product of the factors: alpha / rank."""
        alpha = self.tensors.get(self.plan.module.alpha_key)
        return 1.0 if alpha is None else float(alpha) / self.plan.rank

    @property
    def too_noisy(self) -> bool:
        """Whether the 8-bit error exceeds MAX_NOISE, so that the module needs another encoding.

        The overflow guard of int8 can cause that, and elements that are too small for float8.
        """
        loss = self.squared_error / self.squared_signal if self.squared_signal else 0.0
        return self.plan.encoding in EIGHT_BITS and not loss <= MAX_NOISE**2  # also NaN


def reduce(m: ModulePlan, up: Tensor, down: Tensor) -> Reduced:
    """Reduce one module: up [out, r, ...] and down [r, in, ...] as stored."""
    up, down = flatten(up, down)
    return reduce_all([m], prepare(m, Factors(up[None], down[None])), [None])[0]


def prepare(m: ModulePlan, stored: Factors) -> Factors:
    """Return the factors of modules like `m` as `reduce_all` and `squared_errors` take them.

    A module of smaller rank needs them several times, in float32 or wider, and short.
    """
    if m.rank == m.module.rank:
        return stored
    if is_excessive(*stored):
        return Factors(*shorten(*stored))
    return Factors(*widen(*stored))


def alike(m: ModulePlan) -> tuple[object, ...]:
    """Return a key that is equal for modules that `reduce_all` can reduce together.

    Their factors must have equal shapes and dtypes too.
    """
    return m.same, m.encoding, m.rank == m.module.rank


def reduce_all(
    plans: Sequence[ModulePlan], stored: Factors, cores: Sequence[Core | None]
) -> list[Reduced]:
    """Reduce b modules of one shape and dtype whose `alike` is equal, with factors of `prepare`.

    `cores` are those of the first pass. A core that is None, or that has fewer singular vectors
    than the planned rank, is computed again.
    """
    if plans[0].same:
        rows = zip(plans, *stored, strict=True)
        return [Reduced(m, _tensors_by_key(m, u, d, m.alpha), m.energy, 0.0) for m, u, d in rows]
    if plans[0].encoding == "I8":
        return _reduce_to_int8(plans, stored, cores)
    if plans[0].encoding == "F8_E4M3":
        return _reduce_to_float8(plans, stored, cores)
    return _reduce_to_floats(plans, stored, cores)


def _reduce_to_floats(
    plans: Sequence[ModulePlan], stored: Factors, cores: Sequence[Core | None]
) -> list[Reduced]:
    exact = _compute_float_factors(plans, stored, cores)
    encoded = Factors(*(t.to(TORCH_DTYPE[plans[0].encoding]) for t in exact))
    errors = fidelity.squared_roundings(*exact, *encoded).tolist()
    better = _better_in_bfloat16(plans, exact, errors)
    return [
        Reduced(
            m,
            _tensors_by_key(m, encoded.up[at, :, : m.rank], encoded.down[at, : m.rank], m.alpha),
            m.energy * m.retained,
            errors[at] * m.out_scale**2,
            better_in_bfloat16=better[at],
        )
        for at, m in enumerate(plans)
    ]


def _better_in_bfloat16(
    plans: Sequence[ModulePlan], exact: Factors, errors: Sequence[float]
) -> list[bool]:
    """Return for each module whether bfloat16 has a smaller error than float16, its encoding.

    It is False for all that are not converted from a wider format.
    """
    narrowed = plans[0].module.dtype in WIDE_DTYPES and plans[0].encoding == "F16"
    limits = [SUBNORMAL_LOSS * m.energy * m.retained / m.out_scale**2 for m in plans]
    if not narrowed or not any(e > limit for e, limit in zip(errors, limits, strict=True)):
        return [False] * len(plans)
    others = Factors(*(t.bfloat16() for t in exact))
    found = fidelity.squared_roundings(*exact, *others).tolist()
    return [other < error for other, error in zip(found, errors, strict=True)]


def _compute_float_factors(
    plans: Sequence[ModulePlan], stored: Factors, cores: Sequence[Core | None]
) -> Factors:
    """Return factors with delta = out_scale * up @ down, float64 or float32."""
    m = plans[0]
    if m.rank != m.module.rank:
        return _truncate_for_alpha(plans, stored, cores)
    # `up` is rescaled and `down` is only converted. When a wider format becomes float16, a power of
    # two is moved from one factor to the other too: otherwise small weights could become zero.
    narrowed = m.module.dtype in WIDE_DTYPES and m.encoding == "F16"
    ones = [1.0] * len(plans)
    balances = _balancing_powers(stored, ones) if narrowed else ones
    ratios = [m.scale / m.out_scale * c for m, c in zip(plans, balances, strict=True)]
    up, down = (t.to(torch.float64, copy=True) for t in stored)
    return Factors(up.mul_(_per_matrix(ratios, up)), down.div_(_per_matrix(balances, down)))


def _truncate_for_alpha(
    plans: Sequence[ModulePlan], stored: Factors, cores: Sequence[Core | None]
) -> Factors:
    """Return `truncate_all` for the output's alpha: delta_k = out_scale * up @ down."""
    left, right = truncate_all(plans, stored, cores)
    spread = [abs(m.out_scale) ** -0.5 for m in plans]
    signed = [math.copysign(s, m.out_scale) for s, m in zip(spread, plans, strict=True)]
    result = Factors(left * _per_matrix(signed, left), right * _per_matrix(spread, right))
    if _fit_in_float32(result):
        return result
    left, right = left.double(), right.double()  # so that what is lost is measured
    return Factors(left * _per_matrix(signed, left), right * _per_matrix(spread, right))


def _balancing_powers(factors: Factors, scales: Iterable[float]) -> list[float]:
    """Return powers of two c that make the largest elements of c scale up and down / c similar."""
    highs, lows = (largest_elements(t).tolist() for t in (factors.down, factors.up))
    return [
        2.0 ** round((math.log2(high) - math.log2(low) - math.log2(scale)) / 2)
        if min(high, low, scale) > 0
        else 1.0
        for high, low, scale in zip(highs, lows, scales, strict=True)
    ]


def _per_matrix(numbers: Sequence[float], like: Tensor) -> Tensor:
    """Return b numbers as [b, 1, 1], to multiply each matrix of `like` [b, m, n] by its number."""
    return like.new_tensor(numbers)[:, None, None]


def truncate_all(
    plans: Sequence[ModulePlan], stored: Factors, cores: Sequence[Core | None]
) -> Factors:
    """Return the best approximation of each delta weight that has the planned rank.

    Both factors have the square roots of the singular values. They are float32, which is far more
    exact than 8 or 16 bits; but float64 if the output is wider or if the numbers are near the ends
    of float32's range. k is the largest planned rank: factors of a smaller rank end in zeros.
    """
    halves = _truncation_halves(plans, stored, cores)
    if plans[0].encoding not in WIDE_DTYPES and _fit_in_float32(halves):
        up, down = (t.float() for t in halves)
        result = Factors(up_product(stored.up, up), down_product(down, stored.down))
        if _fit_in_float32(result):
            return result
    return Factors(
        product(stored.up.double(), halves.up), product(halves.down, stored.down.double())
    )


def _truncation_halves(
    plans: Sequence[ModulePlan], stored: Factors, cores: Sequence[Core | None]
) -> Factors:
    """Return A [b, r, k] and B [b, k, r] with delta_k = (up A)(B down), float64."""
    own = [
        found
        if found is not None and found.left.shape[1] >= m.rank
        else spectrum.core(stored.up[at], stored.down[at])
        for at, (m, found) in enumerate(zip(plans, cores, strict=True))
    ]
    left, right = spectrum.truncations(own, [m.rank for m in plans])
    spread = [abs(m.scale) ** 0.5 for m in plans]
    signed = [math.copysign(s, m.scale) for s, m in zip(spread, plans, strict=True)]
    return Factors(left * _per_matrix(signed, left), right * _per_matrix(spread, right))


def _fit_in_float32(factors: Factors) -> bool:
    """Whether float32 can represent the factors and their products."""
    sizes = torch.stack([largest_elements(t) for t in factors])
    return bool(((sizes == 0) | (sizes > 1e-15) & (sizes < 1e15)).all())


def _reduce_to_int8(
    plans: Sequence[ModulePlan], stored: Factors, cores: Sequence[Core | None]
) -> list[Reduced]:
    # The candidates for the gauge are freed before the factors are quantized.
    factors, steps = _choose_gauge(plans, stored, cores)
    quantized = int8.quantize_all(factors, steps, [m.rank for m in plans])
    return [_int8_output(m, q) for m, q in zip(plans, quantized, strict=True)]


def _choose_gauge(
    plans: Sequence[ModulePlan], stored: Factors, cores: Sequence[Core | None]
) -> tuple[Factors, list[float]]:
    """Return float32 factors of delta_k in the best gauge, and their squared steps."""
    ranks = [m.rank for m in plans]
    factors = Factors(*(t.float() for t in truncate_all(plans, stored, cores)))
    if plans[0].rank != plans[0].module.rank:
        return int8.best_gauge(factors, ranks)
    # At the full rank the stored factors may have smaller elements than the truncation's.
    return int8.best_gauge(factors, ranks, _balance_stored(stored, [m.scale for m in plans]))


def _balance_stored(stored: Factors, scales: Sequence[float]) -> Factors:
    """Return float32 factors of scale up @ down, with largest elements that are similar."""
    balances = _balancing_powers(stored, [abs(scale) for scale in scales])
    gains = [scale * c for scale, c in zip(scales, balances, strict=True)]
    # float32 is enough where it holds the gains. One factor at a time is wider, to save memory.
    fit = all(1e-30 < abs(gain) < 1e30 for gain in (*gains, *balances))
    dtype = torch.float32 if fit and stored.up.dtype != torch.float64 else torch.float64
    up = stored.up.to(dtype, copy=True)
    up = up.mul_(_per_matrix(gains, up)).float()
    down = stored.down.to(dtype, copy=True)
    return Factors(up, down.div_(_per_matrix(balances, down)).float())


def _int8_output(m: ModulePlan, q: int8.Quantized) -> Reduced:
    # The log gives the errors of elements for the float factors that have the alpha `m.alpha`.
    gain = abs(m.out_scale) ** -0.5
    tensors = _tensors_by_key(m, q.up, q.down, q.scale**2 * m.rank)
    return Reduced(m, tensors, m.energy * m.retained, q.squared_noise, q.elements.scaled(gain))


def _reduce_to_float8(
    plans: Sequence[ModulePlan], stored: Factors, cores: Sequence[Core | None]
) -> list[Reduced]:
    factors = Factors(*(t.float() for t in _truncate_for_alpha(plans, stored, cores)))
    others = []
    if plans[0].rank == plans[0].module.rank:
        others = [_balance_stored(stored, [m.scale / m.out_scale for m in plans])]
    rounded = float8.round_all(factors, [m.rank for m in plans], *others)
    return [
        Reduced(
            m,
            _tensors_by_key(m, r.up, r.down, m.alpha),
            m.energy * m.retained,
            r.squared_noise * m.out_scale**2,
            r.elements,
        )
        for m, r in zip(plans, rounded, strict=True)
    ]


def _tensors_by_key(
    m: ModulePlan, up: Tensor, down: Tensor, alpha: float | None
) -> dict[str, Tensor]:
    """Return up [out, k] and down [k, in], which have the output's dtype, and alpha, by key."""
    up_shape, down_shape = m.module.shapes_at(m.rank)
    tensors = {m.module.up: up.reshape(up_shape), m.module.down: down.reshape(down_shape)}
    if alpha is not None:
        tensors[m.module.alpha_key] = torch.tensor(alpha, dtype=torch.float32)
    return tensors


def squared_errors(
    reduced: Sequence[Reduced], stored: Factors, cores: Sequence[Core | None]
) -> list[float]:
    """Return ||delta - delta'||_F^2 of modules reduced together; delta' is what a loader computes.

    `stored` are the factors of delta, from `prepare`. The error is computed as a difference of
    norms: in float64, its square root is exact to about 1e-8 * ||delta||_F. For large ranks it is
    computed in float32 where it is large enough to be exact to about 1e-6 of itself.
    """
    m = reduced[0].plan
    if m.same:
        return [0.0] * len(reduced)
    if is_excessive(*stored):  # the rank stays, and the delta weight is smaller than r x r matrices
        errors = [
            (r.plan.scale * delta - r.scale * form_delta(r.up.mT, r.down)).square().sum()
            for r, delta in zip(reduced, form_delta(*stored), strict=True)
        ]
        return torch.stack(errors).tolist()
    large = m.module.rank >= QUICK_RANK and m.rank < m.module.rank
    if stored.up.dtype == torch.float64 or not large:
        return _subtract_norms(reduced, stored, torch.float64)
    found = _subtract_norms(reduced, stored, torch.float32)
    limits = _float32_limits([r.plan for r in reduced], cores)
    # `not >=`, so that NaN is computed again too
    small = [at for at, limit in enumerate(limits) if not found[at] >= limit]
    if small:
        few = [reduced[at] for at in small]
        exact = _subtract_norms(few, stored.select(small), torch.float64)
        for at, squared_error in zip(small, exact, strict=True):
            found[at] = squared_error
    return found


def _float32_limits(plans: Sequence[ModulePlan], cores: Sequence[Core | None]) -> list[float]:
    """Return the smallest squared errors that are exact enough in float32."""
    known = [core.cancellation for core in cores if core is not None]
    cancellation = iter(torch.stack(known).tolist() if known else ())
    return [
        math.inf if core is None else FLOAT32_ERROR_SHARE * next(cancellation) * m.energy
        for m, core in zip(plans, cores, strict=True)
    ]


def _subtract_norms(reduced: Sequence[Reduced], stored: Factors, dtype: torch.dtype) -> list[float]:
    """Compute ||delta||^2 + ||delta'||^2 - 2 <delta, delta'> of each module, at least 0."""
    # One factor after the other: at full rank both together are 100 MB of float64.
    crossed, squared = zip(
        _cross_and_square(stored.up.mT, [r.up for r in reduced], dtype),
        _cross_and_square(stored.down, [r.down for r in reduced], dtype),
        strict=True,
    )
    inner = (crossed[0] * crossed[1]).sum((-2, -1)).tolist()
    norms = (squared[0] * squared[1]).sum((-2, -1)).tolist()
    plans, scales = [r.plan for r in reduced], [r.scale for r in reduced]
    return [
        max(0.0, m.energy + scale**2 * norm - 2 * m.scale * scale * both)
        for m, scale, both, norm in zip(plans, scales, inner, norms, strict=True)
    ]


def _stack_padded(encoded: Sequence[Tensor], like: Tensor) -> Tensor:
    """Return [ki, n] of one dtype as [b, k, n] in the layout of `like`, with zeros after ki."""
    b, k, n = len(encoded), max(map(len, encoded)), like.shape[-1]
    dtype, device = encoded[0].dtype, like.device
    if like.is_contiguous():
        result = torch.zeros(b, k, n, dtype=dtype, device=device)
    else:
        result = torch.zeros(b, n, k, dtype=dtype, device=device).mT
    for row, factor in zip(result, encoded, strict=True):
        row[: len(factor)] = factor
    return result


def _cross_and_square(
    stored: Tensor, encoded: Sequence[Tensor], dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return X Y^T [b, r, k] and Y Y^T [b, k, k] for X [b, r, n] and each Y [ki, n], as float64."""
    together = _stack_padded(encoded, like=stored)
    exact = dtype == torch.float64
    crossed = calls.cross(stored, together, exact=exact)
    # Sums of products of int8 are exact in float32.
    squared = calls.gram(together, exact=exact and together.dtype != torch.int8)
    if crossed is not None and squared is not None:
        return crossed, squared
    padded = together.to(dtype)
    squared = quick_gram(padded) if dtype == torch.float32 else gram(padded)
    return product(stored.to(dtype), padded.mT).double(), squared
