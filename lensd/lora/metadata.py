"""Header metadata of an output: what is kept, what must follow the ranks, and lensd's marks.

Unknown entries are ignored by every program that loads LoRAs, so whatever lensd must remember
goes here and never into a tensor.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lensd.lora import marks
from lensd.lora.compress import Plan

ADAPTER = "lora_adapter_metadata"
PLAIN_NAME = re.compile(r"[\w.-]+")


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
    if ADAPTER in result:
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
    original = result.pop(ADAPTER)
    if quantized:
        result[marks.ADAPTER] = original
        return
    ranks = {m.module.name: (m.module.rank, m.rank) for m in plan.modules}
    result[ADAPTER] = adapter_metadata(original, ranks)


def adapter_metadata(text: str, ranks: Mapping[str, tuple[int, int]]) -> str:
    """A `lora_adapter_metadata` entry for new ranks: module name -> (old rank, new rank).

    Each module's scale, lora_alpha / r (over sqrt(r) with rslora), stays what it was. A text that
    cannot be understood comes back as it is: diffusers then refuses the file, loudly, where a
    wrong entry would change its strength.
    """
    try:
        entry = json.loads(text)
        for component in [k.removesuffix(".r") for k in entry if k.endswith(".r")]:
            prefix = component + "."
            own = {n.removeprefix(prefix): r for n, r in ranks.items() if n.startswith(prefix)}
            if own:
                entry |= {prefix + k: v for k, v in _patterns(entry, prefix, own).items()}
        return json.dumps(entry, indent=2, sort_keys=True, allow_nan=False)
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        return text


def _patterns(
    entry: Mapping[str, Any], prefix: str, ranks: Mapping[str, tuple[int, int]]
) -> dict[str, Any]:
    given = entry.get(prefix + "alpha_pattern") or {}
    default = entry.get(prefix + "lora_alpha", entry[prefix + "r"])
    power = 0.5 if entry.get(prefix + "use_rslora") else 1.0
    alphas = {
        name: _short(float(_matching(given, name, default)) * (new / old) ** power)
        for name, (old, new) in ranks.items()
    }
    rank = Counter(new for _, new in ranks.values()).most_common(1)[0][0]
    usual = Counter(alphas[name] for name, (_, new) in ranks.items() if new == rank)
    alpha = usual.most_common(1)[0][0]
    keys = _keys(ranks)
    return {
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {keys[n]: new for n, (_, new) in ranks.items() if new != rank},
        "alpha_pattern": {keys[n]: own for n, own in alphas.items() if own != alpha},
    }


def _matching(patterns: Mapping[str, Any], name: str, default: Any) -> Any:
    """The value of the first pattern that fits, as peft finds it: a whole name or its dotted end.

    peft takes patterns for regular expressions. Only those that are plain names are understood
    here (ValueError else): a hostile expression could run for years.
    """
    for pattern, value in patterns.items():
        anchored, plain = pattern.startswith("^"), pattern.removeprefix("^")
        if not PLAIN_NAME.fullmatch(plain):
            raise ValueError(f"the pattern {pattern!r} is no module name")
        if name == plain or (not anchored and name.endswith("." + plain)):
            return value
    return default


def _keys(names: Iterable[str]) -> dict[str, str]:
    """The pattern that fits each name alone: anchored where the name is the end of another one."""
    names = list(names)
    ends = {n[i + 1 :] for n in names for i, letter in enumerate(n) if letter == "."}
    return {n: f"^{n}" if n in ends else n for n in names}


def _short(value: float) -> float:
    """Whole numbers as int, as peft writes them."""
    return int(value) if value == int(value) else value
