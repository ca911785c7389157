"""Compute the float factors of an output: truncated, balanced, and scaled for its alpha."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from lensd.lora import spectrum
from lensd.lora.fidelity import largest_elements
from lensd.lora.int8 import Factors
from lensd.lora.plan import ModulePlan
from lensd.lora.products import down_product, product, up_product
from lensd.lora.spectrum import Core
from lensd.lora.tensor_spec import WIDE_DTYPES


def compute_float_factors(
    plans: Sequence[ModulePlan], stored: Factors, cores: Sequence[Core | None]
) -> Factors:
    """Return factors with delta = out_scale * up @ down, float64 or float32."""
    m = plans[0]
    if m.rank != m.module.rank:
        return truncate_for_alpha(plans, stored, cores)
    # `up` is rescaled and `down` is only converted. When a wider format becomes float16, a power of
    # two is moved from one factor to the other too: otherwise small weights could become zero.
    narrowed = m.module.dtype in WIDE_DTYPES and m.encoding == "F16"
    ones = [1.0] * len(plans)
    balances = balancing_powers(stored, ones) if narrowed else ones
    ratios = [m.scale / m.out_scale * c for m, c in zip(plans, balances, strict=True)]
    up, down = (t.to(torch.float64, copy=True) for t in stored)
    return Factors(up.mul_(per_matrix(ratios, up)), down.div_(per_matrix(balances, down)))


def truncate_for_alpha(
    plans: Sequence[ModulePlan], stored: Factors, cores: Sequence[Core | None]
) -> Factors:
    """Return `truncate_all` for the output's alpha: delta_k = out_scale * up @ down."""
    factors = truncate_all(plans, stored, cores)
    result = scale_for_alpha(plans, factors)
    if fit_in_float32(result):
        return result
    wide = Factors(factors.up.double(), factors.down.double())  # so that what is lost is measured
    return scale_for_alpha(plans, wide)


def scale_for_alpha(plans: Sequence[ModulePlan], factors: Factors) -> Factors:
    """Return factors whose product times the output's scale is the product of these."""
    spread = [abs(m.out_scale) ** -0.5 for m in plans]
    signed = [math.copysign(s, m.out_scale) for s, m in zip(spread, plans, strict=True)]
    up, down = factors
    return Factors(up * per_matrix(signed, up), down * per_matrix(spread, down))


def balancing_powers(factors: Factors, scales: Iterable[float]) -> list[float]:
    """Return powers of two c that make the largest elements of c scale up and down / c similar."""
    highs, lows = (largest_elements(t).tolist() for t in (factors.down, factors.up))
    return [
        2.0 ** round((math.log2(high) - math.log2(low) - math.log2(scale)) / 2)
        if min(high, low, scale) > 0
        else 1.0
        for high, low, scale in zip(highs, lows, scales, strict=True)
    ]


def per_matrix(numbers: Sequence[float], like: Tensor) -> Tensor:
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
    complete = complete_cores(plans, stored, cores)
    halves = truncation_halves(plans, complete, [m.scale for m in plans])
    if plans[0].encoding not in WIDE_DTYPES and fit_in_float32(halves):
        up, down = (t.float() for t in halves)
        result = Factors(up_product(stored.up, up), down_product(down, stored.down))
        if fit_in_float32(result):
            return result
    return Factors(
        product(stored.up.double(), halves.up), product(halves.down, stored.down.double())
    )


def complete_cores(
    plans: Sequence[ModulePlan], stored: Factors, cores: Sequence[Core | None]
) -> list[Core]:
    """Return the cores; those that are missing, or have too few singular vectors, are computed."""
    return [
        found
        if found is not None and found.left.shape[1] >= m.rank
        else spectrum.core(stored.up[at], stored.down[at])
        for at, (m, found) in enumerate(zip(plans, cores, strict=True))
    ]


def truncation_halves(
    plans: Sequence[ModulePlan],
    cores: Sequence[Core],
    scales: Sequence[float],
    dtype: torch.dtype = torch.float64,
) -> Factors:
    """Return A [b, r, k] and B [b, k, r] for (up A)(B down): truncations of scale up @ down."""
    return Factors(*spectrum.truncations(cores, [m.rank for m in plans], scales, dtype))


def fit_in_float32(factors: Factors) -> bool:
    """Whether float32 can represent the factors and their products."""
    sizes = torch.stack([largest_elements(t) for t in factors])
    return bool(((sizes == 0) | (sizes > 1e-15) & (sizes < 1e15)).all())


def balance_stored(stored: Factors, scales: Sequence[float]) -> Factors:
    """Return float32 factors of scale up @ down, with largest elements that are similar."""
    balances = balancing_powers(stored, [abs(scale) for scale in scales])
    gains = [scale * c for scale, c in zip(scales, balances, strict=True)]
    # float32 is enough where it holds the gains. One factor at a time is wider, to save memory.
    fit = all(1e-30 < abs(gain) < 1e30 for gain in (*gains, *balances))
    dtype = torch.float32 if fit and stored.up.dtype != torch.float64 else torch.float64
    up = stored.up.to(dtype, copy=True)
    up = up.mul_(per_matrix(gains, up)).float()
    down = stored.down.to(dtype, copy=True)
    return Factors(up, down.div_(per_matrix(balances, down)).float())
