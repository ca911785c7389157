"""Reduce modules in the kernels, one by one.

`compress` is the reference, which computes where the kernels cannot.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from lensd.lora import int8
from lensd.lora._kernels import calls
from lensd.lora.dtypes import TORCH_DTYPE
from lensd.lora.fidelity import ElementError
from lensd.lora.int8 import Factors
from lensd.lora.plan import EIGHT_BITS, ModulePlan
from lensd.lora.reduced import Products, Reduced, as_float32
from lensd.lora.shortening import is_excessive
from lensd.lora.spectrum import Core
from lensd.lora.squared_errors import float32_limits, is_large
from lensd.lora.tensor_spec import WIDE_DTYPES
from lensd.lora.truncation import (
    balancing_powers,
    complete_cores,
    fit_in_float32,
    truncation_halves,
)

ENCODINGS = ("I8", "F8_E4M3", "F16", "BF16")
# A relative error of float32 grows with its square root, here to less than 1e-4.
MOST_CANCELLATION = 1e6


def can_take(stored: Factors) -> bool:
    """Whether the kernels can reduce modules with these factors."""
    is_plain = all(t.is_contiguous() for t in stored)
    return is_plain and calls.can_take(stored.up.mT, stored.down) and not is_excessive(*stored)


def can_reduce(m: ModulePlan) -> bool:
    """Whether the kernels can reduce such a module, if they can take its factors."""
    narrowed = m.module.dtype in WIDE_DTYPES and m.encoding == "F16"  # it may need bfloat16
    return not m.same and not narrowed and m.encoding in ENCODINGS


def reduce(
    plans: Sequence[ModulePlan], stored: Factors, cores: Sequence[Core | None]
) -> list[Reduced] | None:
    """Reduce modules of one encoding in the kernels; None if these cannot take them."""
    if not (can_take(stored) and can_reduce(plans[0])):
        return None
    halves, gains = _halves(plans, stored, cores), _gains(plans, stored)
    if halves is None or gains is None:
        return None
    exact = [True] * len(plans)
    if any(map(is_large, plans)):
        limits = float32_limits(plans, cores)
        exact = [
            not is_large(m) or not m.energy * (1 - m.retained) >= limit
            for m, limit in zip(plans, limits, strict=True)
        ]
    ranks = [m.rank for m in plans]
    to = calls.Truncations(
        halves.up,
        halves.down.mT,
        ranks,
        [_rotations(k) for k in ranks],
        gains,
        exact,
    )
    if plans[0].encoding == "I8":
        found = calls.quantize(*stored, to, (int8.GUARD, int8.SLACK))
    else:
        found = calls.round_floats(*stored, to, TORCH_DTYPE[plans[0].encoding])
    if found is None:
        return None
    return [_output(*each) for each in zip(plans, found, exact, strict=True)]


def _halves(
    plans: Sequence[ModulePlan], stored: Factors, cores: Sequence[Core | None]
) -> Factors | None:
    """Return the small matrices of the truncations [b, r, k] and [b, k, r] for the output's alpha.

    They are float32, and zeros where no truncation is needed. None if float32 is too narrow.
    """
    if not plans[0].needs_core:
        rank = plans[0].module.rank
        return Factors(*torch.zeros(2, len(plans), rank, rank))
    complete = complete_cores(plans, stored, cores)
    if _cancel(complete):
        return None
    is_int8 = plans[0].encoding == "I8"  # its alpha is found out later
    scales = [m.scale if is_int8 else m.scale / m.out_scale for m in plans]
    halves = truncation_halves(plans, complete, scales, torch.float32)
    return halves if fit_in_float32(halves) else None


def _gains(plans: Sequence[ModulePlan], stored: Factors) -> list[tuple[float, float]] | None:
    """Return by what the stored factors are multiplied; zeros where they are of no use.

    They are of use at the full rank: an 8-bit format may represent them better than a truncation.
    Returns None if float32 cannot hold the gains.
    """
    full = [m.rank == m.module.rank for m in plans]
    if not any(full):
        return [(0.0, 0.0)] * len(plans)
    if plans[0].encoding == "I8":
        gains = [(m.scale, 1.0) for m in plans]
    else:
        ratios = [m.scale / m.out_scale for m in plans]
        is_float8 = plans[0].encoding == "F8_E4M3"
        ones = [1.0] * len(plans)
        balances = balancing_powers(stored, map(abs, ratios)) if is_float8 else ones
        gains = [(ratio * c, 1 / c) for ratio, c in zip(ratios, balances, strict=True)]
    if not all(1e-30 < abs(number) < 1e30 for gain in gains for number in gain):
        return None
    return [gain if is_full else (0.0, 0.0) for gain, is_full in zip(gains, full, strict=True)]


def _cancel(cores: Sequence[Core]) -> bool:
    """Whether factors cancel each other so much that float32 products would lose digits."""
    found = torch.stack([core.cancellation for core in cores])
    return bool((found > MOST_CANCELLATION).any())  # not NaN, as a module of zeros has it


def _output(m: ModulePlan, q: calls.Quantized, exact: bool) -> Reduced:  # noqa: FBT001
    elements = ElementError(q.up.numel() + q.down.numel(), q.signal, q.squared, q.absolute)
    alpha, noise = m.alpha, q.squared_noise * m.out_scale**2
    if m.encoding == "I8":
        # The log gives the errors of elements for the float factors that have the alpha `m.alpha`.
        elements = elements.scaled(abs(m.out_scale) ** -0.5)
        alpha, noise = q.scale**2 * m.rank, q.squared_noise
    return Reduced(
        m,
        Factors(q.up, q.down),
        None if alpha is None else as_float32(alpha),
        m.energy * m.retained,
        noise,
        elements if m.encoding in EIGHT_BITS else ElementError(),
        products=Products(q.inner, q.squared_norm, exact),
        data=q.data,
    )


@lru_cache(maxsize=512)
def _rotations(rank: int) -> Tensor:
    """Return all rotations but the first, as float32 [ROTATIONS - 1, k, k]."""
    return torch.stack(int8.rotations(rank)[1:]).float()
