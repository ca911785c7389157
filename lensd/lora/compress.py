"""Reduce modules as planned: compute their output tensors, and the error that these have.

The caller passes a few modules at a time, so that neither the input nor the output has to fit in
memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from lensd.lora import fidelity, float8, int8, native
from lensd.lora.dtypes import TORCH_DTYPE
from lensd.lora.int8 import Factors
from lensd.lora.plan import ModulePlan
from lensd.lora.reading import flatten, widen
from lensd.lora.reduced import Reduced, as_float32
from lensd.lora.shortening import is_excessive, shorten
from lensd.lora.spectrum import Core
from lensd.lora.tensor_spec import WIDE_DTYPES
from lensd.lora.truncation import (
    balance_stored,
    compute_float_factors,
    truncate_all,
    truncate_for_alpha,
)

# A relative squared error that float16 exceeds only where it has subnormals: their steps do not
# become smaller with the number. It is typically 1e-7, and 6e-6 in bfloat16.
SUBNORMAL_LOSS = 1e-6


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


def alike(m: ModulePlan, *, one_by_one: bool) -> tuple[object, ...]:
    """Return a key that is equal for modules that `reduce_all` should reduce together.

    Their factors must have equal shapes and dtypes too. `one_by_one`: the kernels reduce them.
    Others are padded to the largest rank.
    """
    if one_by_one:
        return m.same, m.encoding, m.needs_core
    return m.same, m.encoding, m.rank == m.module.rank, m.rank.bit_length() // 2


def reduce_all(
    plans: Sequence[ModulePlan], stored: Factors, cores: Sequence[Core | None]
) -> list[Reduced]:
    """Reduce b modules of one shape and dtype whose `alike` is equal, with factors of `prepare`.

    `cores` are those of the first pass. A core that is None, or that has fewer singular vectors
    than the planned rank, is computed again.
    """
    if plans[0].same:
        rows = zip(plans, *stored, strict=True)
        return [Reduced(m, Factors(u, d), _alpha(m), m.energy, 0.0) for m, u, d in rows]
    found = native.reduce(plans, stored, cores)
    if found is not None:
        return found
    full = [at for at, m in enumerate(plans) if m.rank == m.module.rank]
    if 0 < len(full) < len(plans):  # only the kernels take both together
        parts = full, [at for at in range(len(plans)) if at not in full]
        results = {at: r for part in parts for at, r in _reduce_some(part, plans, stored, cores)}
        return [results[at] for at in range(len(plans))]
    if plans[0].encoding == "I8":
        return _reduce_to_int8(plans, stored, cores)
    if plans[0].encoding == "F8_E4M3":
        return _reduce_to_float8(plans, stored, cores)
    return _reduce_to_floats(plans, stored, cores)


def _alpha(m: ModulePlan) -> float | None:
    return None if m.alpha is None else as_float32(m.alpha)


def _reduce_to_floats(
    plans: Sequence[ModulePlan], stored: Factors, cores: Sequence[Core | None]
) -> list[Reduced]:
    exact = compute_float_factors(plans, stored, cores)
    encoded = Factors(*(t.to(TORCH_DTYPE[plans[0].encoding]) for t in exact))
    errors = fidelity.squared_roundings(*exact, *encoded).tolist()
    better = _better_in_bfloat16(plans, exact, errors)
    return [
        Reduced(
            m,
            Factors(encoded.up[at, :, : m.rank], encoded.down[at, : m.rank]),
            _alpha(m),
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


def _reduce_to_int8(
    plans: Sequence[ModulePlan], stored: Factors, cores: Sequence[Core | None]
) -> list[Reduced]:
    # The candidates for the gauge are freed before the factors are quantized.
    factors, steps = _choose_gauge(plans, stored, cores)
    quantized = int8.quantize_all(factors, steps, [m.rank for m in plans])
    return [_int8_output(m, q) for m, q in zip(plans, quantized, strict=True)]


def _reduce_some(
    indices: Sequence[int],
    plans: Sequence[ModulePlan],
    stored: Factors,
    cores: Sequence[Core | None],
) -> Iterator[tuple[int, Reduced]]:
    """Yield the indices of some modules, and what they are reduced to."""
    some = [plans[at] for at in indices], stored.select(indices), [cores[at] for at in indices]
    yield from zip(indices, reduce_all(*some), strict=True)


def _choose_gauge(
    plans: Sequence[ModulePlan], stored: Factors, cores: Sequence[Core | None]
) -> tuple[Factors, list[float]]:
    """Return float32 factors of delta_k in the best gauge, and their squared steps."""
    ranks = [m.rank for m in plans]
    factors = Factors(*(t.float() for t in truncate_all(plans, stored, cores)))
    if plans[0].rank != plans[0].module.rank:
        return int8.best_gauge(factors, ranks)
    # At the full rank the stored factors may have smaller elements than the truncation's.
    return int8.best_gauge(factors, ranks, balance_stored(stored, [m.scale for m in plans]))


def _int8_output(m: ModulePlan, q: int8.Quantized) -> Reduced:
    # The log gives the errors of elements for the float factors that have the alpha `m.alpha`.
    gain = abs(m.out_scale) ** -0.5
    return Reduced(
        m,
        Factors(q.up, q.down),
        as_float32(q.scale**2 * m.rank),
        m.energy * m.retained,
        q.squared_noise,
        q.elements.scaled(gain),
    )


def _reduce_to_float8(
    plans: Sequence[ModulePlan], stored: Factors, cores: Sequence[Core | None]
) -> list[Reduced]:
    factors = Factors(*(t.float() for t in truncate_for_alpha(plans, stored, cores)))
    others = []
    if plans[0].rank == plans[0].module.rank:
        others = [balance_stored(stored, [m.scale / m.out_scale for m in plans])]
    rounded = float8.round_all(factors, [m.rank for m in plans], *others)
    return [
        Reduced(
            m,
            Factors(r.up, r.down),
            _alpha(m),
            m.energy * m.retained,
            r.squared_noise * m.out_scale**2,
            r.elements,
        )
        for m, r in zip(plans, rounded, strict=True)
    ]
