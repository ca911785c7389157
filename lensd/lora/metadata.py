"""Header metadata of an output: what is kept, what must follow the ranks, and lensd's marks.

Unknown entries are ignored by every program that loads LoRAs, so whatever lensd must remember
goes here and never into a tensor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from lensd.lora import adapter, marks
from lensd.lora.layout import Layout
from lensd.lora.planning import Plan


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an output comes from."""

    sha256: str
    bytes: int
    name: str
    version: str
    mode: str
    energy: float


def fixed_width(error: float) -> str:
    """A relative error in 12 characters, so that it can be filled in after the read-back."""
    return f"{min(error, 1e99) if error >= 1e-99 else 0.0:.6e}"


def output_metadata(
    metadata: Mapping[str, str], plan: Plan, origin: Origin, delta_error: float = 0.0
) -> dict[str, str]:
    """All original entries, those about ranks brought up to date, and lensd's own."""
    result = dict(metadata)
    ranks = {m.rank for m in plan.modules}
    if any(m.rank != m.module.rank for m in plan.modules):
        for key, alpha in (("ss_network_dim", False), ("ss_network_alpha", True)):
            if key in result:
                result[key] = _network_value(plan, ranks, alpha=alpha)
    result |= {
        marks.VERSION: origin.version,
        marks.MODE: origin.mode,
        marks.ORIGINAL: origin.sha256,
        marks.ORIGINAL_BYTES: str(origin.bytes),
        marks.ORIGINAL_NAME: origin.name,
        marks.ENERGY: repr(origin.energy),
        marks.ERROR: fixed_width(delta_error),
    }
    quantized = any(m.encoding == "I8" for m in plan.modules)
    if quantized:
        result[marks.ALPHA] = "none" if plan.alpha is None else repr(plan.alpha)
    _follow_adapter(result, plan, quantized=quantized)
    for m in plan.modules:  # cloneofsimo's loader takes ranks from here
        if f"{m.module.name}:rank" in result:
            result[f"{m.module.name}:rank"] = str(m.rank)
    return result


def _network_value(plan: Plan, ranks: set[int], *, alpha: bool) -> str:
    """As kohya's resize_lora.py writes it: `Dynamic` unless one rank serves all modules."""
    if len(ranks) > 1:
        return "Dynamic"
    return str(plan.alpha) if alpha else str(next(iter(ranks)))


def _follow_adapter(result: dict[str, str], plan: Plan, *, quantized: bool) -> None:
    """diffusers refuses an adapter entry that tells other ranks, or one beside `.alpha` keys."""
    original = result.pop(adapter.KEY, None)
    ranks = {m.module.name: m.rank for m in plan.modules}
    if quantized:
        if original is not None:
            result[marks.ADAPTER] = original
    else:
        _set_adapter(result, original, plan.layout, ranks, plan.alpha)


def _set_adapter(
    result: dict[str, str],
    original: str | None,
    layout: Layout,
    ranks: Mapping[str, int],
    alpha: float | None,
) -> None:
    """The entry of a float file with these ranks: the original's brought up to date, or its own."""
    if original is not None:
        result[adapter.KEY] = adapter.adapter_metadata(original, ranks)
    elif alpha is None and (entry := adapter.for_mixed_ranks(layout, ranks)):
        result[adapter.KEY] = entry


def expanded_metadata(
    metadata: Mapping[str, str], layout: Layout, alpha: float | None
) -> dict[str, str]:
    """Of an int8 file made float again: what only int8 needs is gone, the adapter entry is back."""
    result = {k: v for k, v in metadata.items() if k not in (marks.ALPHA, marks.ADAPTER)}
    ranks = {m.name: m.rank for m in layout.modules}
    _set_adapter(result, metadata.get(marks.ADAPTER), layout, ranks, alpha)
    return result


def float_alpha(metadata: Mapping[str, str]) -> float | None:
    """The one alpha of an int8 file's float meaning; None: no alpha, scale 1.

    Raises KeyError or ValueError where lensd's mark is missing or damaged.
    """
    text = metadata[marks.ALPHA]
    if text == "none":
        return None
    alpha = float(text)
    if not math.isfinite(alpha) or alpha == 0:
        raise ValueError(f"{marks.ALPHA} is {text}")
    return alpha
