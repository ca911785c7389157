"""Measure how far outputs are from the originals, by the Gram matrices of their factors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lensd.lora._kernels import calls
from lensd.lora.int8 import Factors
from lensd.lora.plan import ModulePlan
from lensd.lora.products import gram, product, quick_gram
from lensd.lora.reading import QUICK_RANK
from lensd.lora.reduced import Reduced
from lensd.lora.shortening import form_delta, is_excessive
from lensd.lora.spectrum import Core

# A squared error that is larger than this share of the module's energy, times the cancellation, is
# exact to six digits when computed in float32.
FLOAT32_ERROR_SHARE = 3e-3


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
    if stored.up.dtype == torch.float64 or not any(is_large(r.plan) for r in reduced):
        return _subtract_norms(reduced, stored, torch.float64)
    found = _subtract_norms(reduced, stored, torch.float32)
    limits = float32_limits([r.plan for r in reduced], cores)
    # `not >=`, so that NaN is computed again too
    small = [
        at
        for at, (r, limit) in enumerate(zip(reduced, limits, strict=True))
        if not (found[at] >= limit or (r.products and r.products.exact))
    ]
    if small:
        few = [reduced[at] for at in small]
        exact = _subtract_norms(few, stored.select(small), torch.float64)
        for at, squared_error in zip(small, exact, strict=True):
            found[at] = squared_error
    return found


def float32_limits(plans: Sequence[ModulePlan], cores: Sequence[Core | None]) -> list[float]:
    """Return the smallest squared errors that are exact enough in float32."""
    known = [core.cancellation for core in cores if core is not None]
    cancellation = iter(torch.stack(known).tolist() if known else ())
    return [
        math.inf if core is None else FLOAT32_ERROR_SHARE * next(cancellation) * m.energy
        for m, core in zip(plans, cores, strict=True)
    ]


def is_large(m: ModulePlan) -> bool:
    """Whether products of factors for the error are computed in float32 first."""
    return m.module.rank >= QUICK_RANK and m.rank < m.module.rank


def _subtract_norms(reduced: Sequence[Reduced], stored: Factors, dtype: torch.dtype) -> list[float]:
    """Compute ||delta||^2 + ||delta'||^2 - 2 <delta, delta'> of each module, at least 0."""
    known = [r.products for r in reduced if r.products]
    if len(known) == len(reduced) and (dtype == torch.float32 or all(p.exact for p in known)):
        return _subtract(reduced, [p.inner for p in known], [p.squared_norm for p in known])
    # One factor after the other: at full rank both together are 100 MB of float64.
    crossed, squared = zip(
        _cross_and_square(stored.up.mT, [r.up for r in reduced], dtype),
        _cross_and_square(stored.down, [r.down for r in reduced], dtype),
        strict=True,
    )
    inner = (crossed[0] * crossed[1]).sum((-2, -1)).tolist()
    norms = (squared[0] * squared[1]).sum((-2, -1)).tolist()
    return _subtract(reduced, inner, norms)


def _subtract(
    reduced: Sequence[Reduced], inner: Sequence[float], norms: Sequence[float]
) -> list[float]:
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
