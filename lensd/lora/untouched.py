"""Find the reason why a tensor is not part of a reduced module and is copied bit for bit."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

from lensd.lora.layout import NAMINGS, OTHER_ADAPTERS, find_naming
from lensd.lora.tensor_spec import FLOAT_DTYPES, TensorSpec

# Reasons, each with a pattern for the keys that have it. The first pattern that matches decides.
PARTS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("tucker", re.compile(r"\.lora_mid")),
    *(("other_adapter", re.compile(re.escape(part))) for _, part in OTHER_ADAPTERS),
    ("dora", re.compile(r"\.(dora_scale|lora_magnitude_vector)")),
    ("norm", re.compile(r"\.[wb]_norm$")),
    ("bias", re.compile(r"\.(diff_b|bias(_\w+)?)$")),
    ("diff", re.compile(r"\.(diff|set_weight|reshape_weight)$")),
)
# Reasons that apply to all tensors of the same module: to its factors and its alpha too.
WHOLE_MODULE = ("tucker", "other_adapter")
# The suffixes of factors and alphas, the longest first. A key without its suffix is a base.
ENDINGS = sorted({e for n in NAMINGS for e in (n.down, n.up, n.end + n.alpha)}, key=len)[::-1]


def reasons(untouched: Mapping[str, TensorSpec]) -> Counter[str]:
    """Count the untouched tensors by reason.

    Besides the reasons in PARTS there are: `dtype`, a pair in a number format that is not reduced;
    `shape`, a pair that is no product, or whose alpha is not one number; `orphan`, a factor or an
    alpha without the rest of its module; `other`.
    """
    by_base: dict[str, str] = {}
    for key in untouched:
        by_base |= _reason_of_pair(untouched, key)
    for key in untouched:
        reason, start = _reason_in_key(key)
        if reason in WHOLE_MODULE:
            by_base[key[:start]] = reason
    return Counter(_reason_in_key(key)[0] or _reason_of_base(key, by_base) for key in untouched)


def _reason_of_pair(untouched: Mapping[str, TensorSpec], key: str) -> dict[str, str]:
    """Return {base: reason} if the key is that of a `down` whose `up` is untouched too."""
    naming = find_naming(key)
    if naming is None:
        return {}
    base = naming.base(key, naming.down) or ""
    up = untouched.get(naming.key(base, naming.up))
    if up is None:
        return {}
    floats = {up.dtype, untouched[key].dtype} <= set(FLOAT_DTYPES)
    return {base: "shape" if floats else "dtype"}


def _reason_in_key(key: str) -> tuple[str, int]:
    """Return the reason by the key alone, and where its pattern matches; ("", 0) if none does."""
    for reason, pattern in PARTS:
        if found := pattern.search(key):
            return reason, found.start()
    return "", 0


def _reason_of_base(key: str, by_base: Mapping[str, str]) -> str:
    ending = next((e for e in ENDINGS if key.endswith(e)), None)
    return "other" if ending is None else by_base.get(key.removesuffix(ending), "orphan")
