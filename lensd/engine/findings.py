"""What a measured attempt at an output shows about the next one.

With `strict_energy` the error of a module (`allocation: module`) or of the file has to be at most
sqrt(1 - energy), with that of its encoding. The truncation alone may use all of it, so that the
ranks are raised once the encoding's error is measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from lensd.engine.measured import Measured
from lensd.lora.composites import CompositePlan
from lensd.lora.parameters import Parameters
from lensd.lora.plan import EIGHT_BITS, Findings, ModulePlan, Reading
from lensd.lora.tensor_spec import ITEM_SIZE

ROUNDS = 4  # attempts with higher ranks; the second is mostly the last
MARGIN = 1.05  # the encoding's error at a higher rank, relative to the one that was measured


def of_attempt(
    measured: Sequence[Measured], readings: Sequence[Reading], p: Parameters, before: Findings
) -> Findings | None:
    """Return what to change in the next attempt; None if this one is the last."""
    noisy = {(m.plan.module.name, m.plan.encoding) for m in measured if m.too_noisy}
    tiny = {m.plan.module.name for m in measured if m.better_in_bfloat16}
    tiny = tiny if p.float32 == "auto" else set()
    if noisy or tiny:
        return replace(
            before, too_noisy=before.too_noisy | noisy, in_bfloat16=before.in_bfloat16 | tiny
        )
    if before.rounds == ROUNDS or is_strict_enough(measured, p):
        return None
    before = replace(before, rounds=before.rounds + 1)
    if p.allocation == "module":
        return _tighten_modules(measured, readings, p, before)
    return _tighten_file(measured, p, before)


def is_strict_enough(measured: Sequence[Measured], p: Parameters) -> bool:
    """Whether the errors are as small as `strict_energy`, if it is set, requires."""
    if not p.strict_energy or p.target_size is not None:
        return True
    if p.allocation == "module":
        return not any(_is_excessive(m, p) for m in measured)
    energy = math.fsum(m.plan.energy for m in measured)
    return math.fsum(m.squared_error for m in measured) <= (1 - p.energy) * energy


def _is_excessive(m: Measured, p: Parameters) -> bool:
    return m.squared_error > (1 - p.energy) * m.plan.energy


def _tighten_modules(
    measured: Sequence[Measured], readings: Sequence[Reading], p: Parameters, before: Findings
) -> Findings:
    """Raise the rank of each module whose error is too large, or store it in floats."""
    allowed = 1 - p.energy
    in_floats: set[str] = set()
    least = dict(before.least_ranks)
    for m in measured:
        if isinstance(m.plan, CompositePlan) and _is_excessive(m, p):
            enough = m.plan.smallest_rank(p.energy + _noise(m) * MARGIN)
            least[m.plan.module.name] = max(m.plan.rank + 1, enough)
    modules = [m for m in measured if isinstance(m.plan, ModulePlan)]
    for m, reading in zip(modules, readings, strict=True):
        if not _is_excessive(m, p):
            continue
        name, noise = m.plan.module.name, _noise(m) * MARGIN
        if noise < allowed:
            least[name] = max(m.plan.rank + 1, reading.smallest_rank(p.energy + noise))
        else:
            least[name] = m.plan.module.rank
        if m.plan.encoding in EIGHT_BITS and _floats_are_better(m, reading, p, least[name]):
            in_floats.add(name)
            del least[name]
    too_noisy = before.too_noisy | _in_8_bits(in_floats)
    return replace(before, too_noisy=too_noisy, least_ranks=least)


def _noise(m: Measured) -> float:
    """The encoding's share in the relative squared error of a module with energy."""
    return max(0.0, m.squared_error / m.plan.energy - (1 - m.plan.retained))


def _floats_are_better(m: Measured, reading: Reading, p: Parameters, least: int) -> bool:
    """Whether floats take fewer bytes than 8 bits at its rank `least`, or there is no such rank.

    In mode int8 the rank is the highest one already.
    """
    if m.plan.rank >= len(reading.values) or (p.max_rank is not None and least > p.max_rank):
        return True
    in_floats = reading.smallest_rank(p.energy)
    return in_floats * ITEM_SIZE["F16"] < least * ITEM_SIZE["I8"]


def _in_8_bits(names: Iterable[str]) -> set[tuple[str, str]]:
    """Return the modules with each 8-bit encoding, so that they stay in floats."""
    return {(name, dtype) for name in names for dtype in EIGHT_BITS}


def _tighten_file(measured: Sequence[Measured], p: Parameters, before: Findings) -> Findings:
    """Raise the energy of the whole file, or store the worst modules in floats."""
    total = math.fsum(m.plan.energy for m in measured)
    error = math.fsum(m.squared_error for m in measured)
    lost = math.fsum(m.plan.energy * (1 - m.plan.retained) for m in measured)
    left = (1 - p.energy) * total - (error - lost) * MARGIN
    if left <= 0 or lost <= 0:
        worst = _in_8_bits(_worst(measured, 1 - p.energy))
        return replace(before, too_noisy=before.too_noisy | worst)
    used = p.energy if before.energy is None else before.energy
    return replace(before, energy=1 - (1 - used) * min(1.0, left / lost))


def _worst(measured: Sequence[Measured], allowed: float) -> Iterator[str]:
    """Yield the 8-bit modules whose encoding alone takes the whole allowance of their energy."""
    for m in measured:
        if m.plan.encoding in EIGHT_BITS and m.plan.energy and _noise(m) * MARGIN >= allowed:
            yield m.plan.module.name
