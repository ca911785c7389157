"""The `lora_adapter_metadata` entry: where diffusers keeps peft's ranks and alphas for a file.

It is JSON of the fields of peft's LoraConfig, each behind its component: `unet.r`,
`transformer.rank_pattern`. A module's scale is lora_alpha / r, over sqrt(r) with rslora.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from lensd.lora.layout import Layout

KEY = "lora_adapter_metadata"
MOST_COMPARISONS = 50_000_000  # of names with patterns: some ten seconds
PLAIN_NAME = re.compile(r"[\w.-]{1,1024}")
# What an entry that makes no sense raises while it is read.
NONSENSE = (ValueError, TypeError, AttributeError, ArithmeticError, RecursionError)

COMPONENTS = frozenset({"unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3"})
# Into these Wan models diffusers adds modules of its own before it reads the entry.
EXTENDED = "transformer.blocks."


def adapter_metadata(text: str, ranks: Mapping[str, int]) -> str:
    """The entry for new ranks (module name -> rank); each module's scale stays what it was.

    A text that cannot be understood comes back as it is: diffusers then refuses the file, loudly,
    where a wrong entry would change its strength.
    """
    try:
        entry = json.loads(text)
        for component, own in _by_component(entry, ranks).items():
            fields = _patterns(entry, component + ".", own)
            entry |= {f"{component}.{k}": v for k, v in fields.items()}
        return json.dumps(entry, indent=2, sort_keys=True, allow_nan=False)
    except NONSENSE:
        return text


def for_mixed_ranks(layout: Layout, ranks: Mapping[str, int]) -> str | None:
    """An entry that says scale 1 for every module, for a file without alphas and without an entry.

    diffusers before 0.40 takes the first module's rank for everybody's alpha where modules differ
    in rank; with an entry it does not. None where there is no need, or where diffusers renames or
    adds modules between reading the file and reading the entry.
    """
    plain = all(m.naming.down == ".lora_A.weight" for m in layout.modules)
    extended = any(name.startswith(EXTENDED) for name in ranks)
    if layout.untouched or not plain or extended:
        return None
    names: dict[str, list[str]] = {}
    for name in ranks:
        component, _, own = name.partition(".")
        names.setdefault(component, []).append(own)
    if not COMPONENTS.issuperset(names) or not any(
        len({ranks[f"{c}.{n}"] for n in own}) > 1 for c, own in names.items()
    ):
        return None
    entry: dict[str, Any] = {}
    for component, bare in names.items():
        fields: dict[str, Any] = {"peft_type": "LORA", "r": 1, "lora_alpha": 1}
        fields["target_modules"] = sorted(_bare(n) for n in bare)
        entry |= {f"{component}.{k}": v for k, v in fields.items()}
    return adapter_metadata(json.dumps(entry), ranks)


def scales(text: str, names: Iterable[str]) -> dict[str, float]:
    """Module name -> the scale that the entry gives it, 1 where it says nothing of its component.

    Raises ValueError for an entry that cannot be understood.
    """
    ones = dict.fromkeys(names, 1.0)
    try:
        entry = json.loads(text)
        return ones | {
            f"{component}.{name}": float(alpha) / _divisor(entry, component + ".", rank)
            for component, own in _by_component(entry, dict.fromkeys(ones, 0)).items()
            for name, (rank, alpha) in _given(entry, component + ".", own).items()
        }
    except NONSENSE as error:
        raise ValueError(f"the entry {KEY} cannot be understood: {error}") from None


def _by_component(entry: Mapping[str, Any], ranks: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """Component -> its modules' names without it -> rank; those that the entry speaks of."""
    components = [key.removesuffix(".r") for key in entry if key.endswith(".r")]
    found = {
        c: {n.removeprefix(c + "."): r for n, r in ranks.items() if n.startswith(c + ".")}
        for c in components
    }
    return {component: own for component, own in found.items() if own}


def _given(
    entry: Mapping[str, Any], prefix: str, names: Iterable[str]
) -> dict[str, tuple[int, float]]:
    """Module name -> the rank and the lora_alpha that the entry gives it."""
    ranks, alphas = (entry.get(f"{prefix}{k}_pattern") or {} for k in ("rank", "alpha"))
    names = list(names)
    if len(names) * (len(ranks) + len(alphas)) > MOST_COMPARISONS:
        raise ValueError("it has too many patterns")
    rank = entry[prefix + "r"]
    alpha = entry.get(prefix + "lora_alpha", rank)
    return {n: (_matching(ranks, n, rank), float(_matching(alphas, n, alpha))) for n in names}


def _divisor(entry: Mapping[str, Any], prefix: str, rank: int) -> float:
    return float(rank**0.5 if entry.get(prefix + "use_rslora") else rank)


def _patterns(entry: Mapping[str, Any], prefix: str, ranks: Mapping[str, int]) -> dict[str, Any]:
    alphas = {
        name: _short(alpha * _divisor(entry, prefix, ranks[name]) / _divisor(entry, prefix, rank))
        for name, (rank, alpha) in _given(entry, prefix, ranks).items()
    }
    rank = Counter(ranks.values()).most_common(1)[0][0]
    usual = Counter(alphas[name] for name, own in ranks.items() if own == rank)
    alpha = usual.most_common(1)[0][0]
    keys = _keys(ranks)
    return {
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {keys[n]: own for n, own in ranks.items() if own != rank},
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
    names = set(names)
    dotted = (n[i + 1 :] for n in names for i, letter in enumerate(n) if letter == ".")
    ends = {end for end in dotted if end in names}
    return {n: f"^{n}" if n in ends else _bare(n) for n in names}


def _bare(name: str) -> str:
    """Without the part that transformers 5 dropped from text encoders; a dotted end fits both."""
    return name.removeprefix("text_model.")


def _short(value: float) -> float:
    """Whole numbers as int, as peft writes them."""
    return int(value) if value == int(value) else value
