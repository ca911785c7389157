"""Why tensors are no part of a reduced module. All of them are copied bit for bit."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

from lensd.lora.layout import FLOAT_DTYPES, NAMINGS, OTHER_ADAPTERS, TensorSpec

# The reason, and what in a key tells it; the first that fits counts.
PARTS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("tucker", re.compile(r"\.lora_mid")),
    *(("other_adapter", re.compile(re.escape(part))) for _, part in OTHER_ADAPTERS),
    ("dora", re.compile(r"\.(dora_scale|lora_magnitude_vector)")),
    ("norm", re.compile(r"\.[wb]_norm$")),
    ("bias", re.compile(r"\.(diff_b|bias(_\w+)?)$")),
    ("diff", re.compile(r"\.(diff|set_weight|reshape_weight)$")),
)
# Reasons that hold for everything else of the same module: its factors and its alpha.
WHOLE_MODULE = ("tucker", "other_adapter")
# What factors and alphas add to a module's base, longest first.
ENDINGS = sorted({e for n in NAMINGS for e in (n.down, n.up, n.end + n.alpha)}, key=len)[::-1]


def reasons(untouched: Mapping[str, TensorSpec]) -> Counter[str]:
    """Reason -> how many of these tensors.

    Besides those of PARTS: `dtype`, a pair in a number format that is not reduced; `shape`, a pair
    that is no product, or whose alpha is no one number; `orphan`, a factor or alpha without the
    rest; `other`.
    """
    of_base: dict[str, str] = {}
    for key in untouched:
        of_base |= _of_pair(untouched, key)
    for key in untouched:
        reason, start = _told_by(key)
        if reason in WHOLE_MODULE:
            of_base[key[:start]] = reason
    return Counter(_told_by(key)[0] or _by_base(key, of_base) for key in untouched)


def _of_pair(untouched: Mapping[str, TensorSpec], key: str) -> dict[str, str]:
    naming = next((n for n in NAMINGS if key.endswith(n.down)), None)
    if naming is None:
        return {}
    base = key.removesuffix(naming.down)
    up = untouched.get(base + naming.up)
    if up is None:
        return {}
    floats = {up.dtype, untouched[key].dtype} <= set(FLOAT_DTYPES)
    return {base: "shape" if floats else "dtype"}


def _told_by(key: str) -> tuple[str, int]:
    """The reason that the key itself tells, and where; empty if none."""
    for reason, pattern in PARTS:
        if found := pattern.search(key):
            return reason, found.start()
    return "", 0


def _by_base(key: str, of_base: Mapping[str, str]) -> str:
    ending = next((e for e in ENDINGS if key.endswith(e)), None)
    return "other" if ending is None else of_base.get(key.removesuffix(ending), "orphan")
