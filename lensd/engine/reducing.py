"""Reduce the modules of a batch, and measure what a loader will see of them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from lensd.engine import cuda
from lensd.engine.measured import Measured
from lensd.engine.readback import as_bytes
from lensd.lora import compress, native
from lensd.lora.batches import batches
from lensd.lora.int8 import Factors
from lensd.lora.layout import Module
from lensd.lora.plan import ModulePlan
from lensd.lora.reduced import Reduced
from lensd.lora.spectrum import Core
from lensd.lora.squared_errors import squared_errors
from lensd.store.tensors import Buffer


class Reduction(NamedTuple):
    """Modules in their output form: bytes of the factors, module by module, and of the alphas."""

    measured: list[Measured]
    factors: list[tuple[str, Buffer]]
    alphas: dict[str, bytes]  # by key


def reduce_batch(
    plans: Sequence[ModulePlan], stored: Factors, cores: Sequence[Core | None]
) -> Reduction:
    """Reduce and measure modules of one shape and dtype."""
    results: dict[int, tuple[Reduced, Measured]] = {}
    for group in _groups(plans, stored):
        own_plans, own_cores = [plans[at] for at in group], [cores[at] for at in group]
        own = compress.prepare(own_plans[0], stored.select(group))
        reduced = compress.reduce_all(own_plans, own, own_cores)
        errors = squared_errors(reduced, own, own_cores)
        for at, r, error in zip(group, reduced, errors, strict=True):
            results[at] = r, Measured.of(r, error)
    in_order = [results[at] for at in range(len(plans))]
    return Reduction([m for _, m in in_order], *_output_bytes([r for r, _ in in_order]))


def _groups(plans: Sequence[ModulePlan], stored: Factors) -> list[list[int]]:
    """Return the indices of the modules that are computed together.

    Modules that are padded to the largest rank have similar ranks.
    """
    takes = native.can_take(stored)
    one_by_one = [takes and native.can_reduce(m) for m in plans]

    def alike(at: int) -> tuple[object, ...]:
        return compress.alike(plans[at], one_by_one=one_by_one[at])

    def size(at: int) -> int:
        return 1 if one_by_one[at] else _elements_at_work(plans[at])

    by_rank = sorted(range(len(plans)), key=lambda at: 0 if one_by_one[at] else plans[at].rank)
    return batches(by_rank, alike, size, cuda.batch_elements(stored.up.device))


def _output_bytes(
    reduced: Sequence[Reduced],
) -> tuple[list[tuple[str, Buffer]], dict[str, bytes]]:
    """Return keys and bytes of the factors, and bytes of the alphas by key."""
    fetched = iter(_fetch([r for r in reduced if r.data is None]))
    factors: list[tuple[str, Buffer]] = []
    alphas: dict[str, bytes] = {}
    for r in reduced:
        data = r.data or (as_bytes(next(fetched)), as_bytes(next(fetched)))
        factors += zip((r.plan.module.down, r.plan.module.up), data, strict=True)
        if r.own_alpha is not None:
            alphas[r.plan.module.alpha_key] = struct.pack("<f", r.own_alpha)
    return factors, alphas


def _fetch(reduced: Sequence[Reduced]) -> list[Tensor]:
    """Return down and up of each module on the CPU."""
    return cuda.to_cpu([t for r in reduced for t in (r.factors.down, r.factors.up)])


def elements(module: Module) -> int:
    """Count the elements of the stored factors."""
    return module.rank * (module.out_features + module.in_features)


def _elements_at_work(m: ModulePlan) -> int:
    """Count the elements of the factors before and after, and of the results between them."""
    return elements(m.module) // m.module.rank * max(m.module.rank, 3 * m.rank)
