"""Per-module measures -> the numbers of a log line."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from lensd.compute.passes import Measured
from lensd.lora import fidelity, untouched
from lensd.lora.planning import ModulePlan, Plan

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
