"""Make the header metadata of an output from that of the original.

The original's entries stay, entries that state ranks or alphas are updated, and lensd's marks are
added. Every program that loads LoRAs ignores unknown entries, so lensd stores what it must remember
here and never in a tensor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from lensd.lora import adapter, marks
from lensd.lora.layout import Layout
from lensd.lora.plan import Plan


@dataclass(frozen=True, slots=True)
class Origin:
    """The facts about an output that lensd's marks record."""

    sha256: str  # of the original
    bytes: int  # size of the original
    name: str  # file name of the original
    version: str  # of lensd
    mode: str
    energy: float


def fixed_width(error: float) -> str:
    """Format a relative error in 12 characters.

    The header is written before the error is measured; the fixed width allows filling it in later.
    """
    return f"{min(error, 1e99) if error >= 1e-99 else 0.0:.6e}"


def output_metadata(metadata: Mapping[str, str], plan: Plan, origin: Origin) -> dict[str, str]:
    """Return the original's entries, updated where they state ranks or alphas, and lensd's marks.

    The error is 0; `with_error` sets it.
    """
    result = dict(metadata)
    ranks = {m.rank for m in plan.all_modules}
    if any(m.rank != m.module.rank or m.encoding == "F8_E4M3" for m in plan.all_modules):
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
        marks.ERROR: fixed_width(0.0),
    }
    quantized = any(m.encoding == "I8" for m in plan.modules)
    if plan.alpha_is_added:
        result[marks.ALPHA] = "none"
    elif quantized:
        result[marks.ALPHA] = "none" if plan.alpha is None else repr(plan.alpha)
    _update_adapter_entry(result, plan, moves=quantized or plan.alpha_is_added)
    for m in plan.modules:  # cloneofsimo's loader reads ranks from these entries
        if f"{m.module.name}:rank" in result:
            result[f"{m.module.name}:rank"] = str(m.rank)
    return result


def with_error(metadata: Mapping[str, str], delta_error: float) -> dict[str, str]:
    """Return metadata of the same length, with the relative error over all modules."""
    return {**metadata, marks.ERROR: fixed_width(delta_error)}


def _network_value(plan: Plan, ranks: set[int], *, alpha: bool) -> str:
    """Return rank or alpha as kohya's resize_lora.py writes it: `Dynamic` if ranks differ."""
    if len(ranks) > 1:
        return "Dynamic"
    return str(plan.alpha) if alpha else str(next(iter(ranks)))


def _update_adapter_entry(result: dict[str, str], plan: Plan, *, moves: bool) -> None:
    """Update the adapter entry, or move it to one of lensd's marks.

    diffusers refuses an adapter entry with ranks that are not the tensors', and one in a file that
    has `.alpha` keys, as int8 files do.
    """
    original = result.pop(adapter.KEY, None)
    ranks = {m.module.name: m.rank for m in plan.modules}
    if moves:
        if original is not None:
            result[marks.ADAPTER] = original
    else:
        _set_adapter_entry(result, original, plan.layout, ranks, plan.alpha)


def _set_adapter_entry(
    result: dict[str, str],
    original: str | None,
    layout: Layout,
    ranks: Mapping[str, int],
    alpha: float | None,
) -> None:
    """Set the entry of a float file with these ranks (module name -> rank).

    It is the original's entry, updated; without one, a new entry if diffusers needs it.
    """
    if original is not None:
        result[adapter.KEY] = adapter.adapter_metadata(original, ranks)
    elif alpha is None and (entry := adapter.for_mixed_ranks(layout, ranks)):
        result[adapter.KEY] = entry


def expanded_metadata(
    metadata: Mapping[str, str], layout: Layout, alpha: float | None
) -> dict[str, str]:
    """Return the entries for an 8-bit file that is expanded to floats.

    They lack the marks that only int8 needs, and have the adapter entry again. `alpha` is that of
    all modules, None if they have none. Those of a file without int8 fit its float form too.
    """
    if marks.ALPHA not in metadata:
        return dict(metadata)
    result = {k: v for k, v in metadata.items() if k not in (marks.ALPHA, marks.ADAPTER)}
    ranks = {m.name: m.rank for m in layout.modules}
    _set_adapter_entry(result, metadata.get(marks.ADAPTER), layout, ranks, alpha)
    return result


def float_alpha(metadata: Mapping[str, str]) -> float | None:
    """Return the alpha of all modules when the 8-bit file is expanded; None: no alpha, scale 1.

    Raises KeyError if lensd's mark is missing, and ValueError if it is damaged.
    """
    text = metadata[marks.ALPHA]
    if text == "none":
        return None
    alpha = float(text)
    if not math.isfinite(alpha) or alpha == 0:
        raise ValueError(f"{marks.ALPHA} is {text}")
    return alpha
