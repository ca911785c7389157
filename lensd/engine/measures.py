"""Per-module measures -> the numbers of a log line."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from lensd.engine.passes import Measured
from lensd.lora import fidelity, untouched
from lensd.lora.blocks import Block, block_of, in_model
from lensd.lora.curve import curve
from lensd.lora.planning import ModulePlan, Plan, Reading

Numbers = dict[str, Any]


def of_plan(plan: Plan) -> Numbers:
    """What a plan alone tells: modules, ranks, energy."""
    return {
        "family": plan.layout.family,
        "naming": plan.layout.naming,
        "dtype_in": plan.layout.dtype,
        "dtype_out": _most_common(m.encoding for m in plan.modules),
        "modules": len(plan.modules),
        "rank_in": _spread([m.module.rank for m in plan.modules]),
        "rank_out": _spread([m.rank for m in plan.modules]),
        "blocks": _blocks(plan.modules),
        "energy_retained": _energy(plan.modules),
        "encodings": {
            "int8": sum(m.encoding == "I8" for m in plan.modules),
            "float": sum(m.encoding != "I8" for m in plan.modules),
            "untouched": len(plan.layout.untouched),
        },
        "forced_by": list(plan.forced_by),
        "float_because": dict(plan.float_because),
        "untouched_because": _untouched_because(plan),
    }


def of_readings(readings: Sequence[Reading]) -> Numbers:
    """What the first pass tells: how much of the energy the first ranks hold."""
    ranks, energy = curve([r.values for r in readings])
    return {"spectrum": {"ranks": ranks, "energy": energy}}


def of_output(measured: Sequence[Measured]) -> Numbers:
    """What the read-back tells: errors of the delta weights, and the quantization's noise."""
    quantized = [m for m in measured if m.plan.encoding == "I8"]
    elements = fidelity.ElementError()
    for m in quantized:
        elements.merge(m.elements)
    return {
        "delta_error": delta_error(measured),
        "delta_error_max": max(m.relative_error for m in measured),
        "snr_db": elements.snr_db,
        "mse": elements.mse,
        "mae": elements.mae,
        "delta_snr_db": fidelity.decibels(
            sum(m.squared_signal for m in quantized), sum(m.squared_noise for m in quantized)
        ),
    }


def delta_error(measured: Iterable[Measured]) -> float:
    """||delta - delta'||_F / ||delta||_F over all modules of the file together."""
    pairs = [(m.squared_error, m.plan.energy) for m in measured]
    error, energy = (sum(column) for column in zip(*pairs, strict=True))
    return float((error / energy) ** 0.5) if energy else 0.0


def _untouched_because(plan: Plan) -> dict[str, int]:
    specs = dict(plan.tensors)
    return dict(untouched.reasons({key: specs[key] for key in plan.layout.untouched}))


def _blocks(modules: Sequence[ModulePlan]) -> dict[str, list[list[float | None]]]:
    """Per part of the model its blocks: number (None: it has none), modules, median ranks in, out.

    Lists, since FLUX has some sixty blocks and a log line is to stay short.
    """
    members: dict[Block, list[ModulePlan]] = {}
    for m in modules:
        members.setdefault(block_of(m.module.name), []).append(m)
    parts: dict[str, list[list[float | None]]] = {}
    for block in sorted(members, key=in_model):
        number = None if block.number < 0 else block.number
        before = _median([m.module.rank for m in members[block]])
        after = _median([m.rank for m in members[block]])
        parts.setdefault(block.part, []).append([number, len(members[block]), before, after])
    return parts


def _median(ranks: Sequence[int]) -> float:
    """A whole number where it is one."""
    middle = statistics.median(ranks)
    return int(middle) if middle == int(middle) else middle


def _energy(modules: Sequence[ModulePlan]) -> dict[str, float]:
    total = sum(m.energy for m in modules)
    kept = sum(m.energy * m.retained for m in modules)
    return {
        "min": min(m.retained for m in modules),
        "overall": kept / total if total else 1.0,
    }


def _spread(ranks: Sequence[int]) -> dict[str, float]:
    return {"min": min(ranks), "median": statistics.median(ranks), "max": max(ranks)}


def _most_common(items: Iterable[str]) -> str:
    return statistics.mode(items)
