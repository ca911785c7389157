"""Parse sizes as people write them: "32MB", "1.5 GiB"."""

from __future__ import annotations

import re
from decimal import Decimal

PATTERN = r"^\s*([0-9]+(?:\.[0-9]+)?)\s*([kKmMgGtT]i?)?[bB]?\s*$"
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_LARGEST = 2**63 - 1


def parse_size(text: str) -> int:
    """Return the bytes: 32MB is 32 * 1000**2, 32MiB is 32 * 1024**2, 32 is 32.

    Raises ValueError for anything else, with a message for users.
    """
    match = re.match(PATTERN, text)
    if match is None:
        raise ValueError(f"{text!r} is not a size; write it like 32MB, 32MiB or 33554432")
    unit = (match[2] or "").lower()
    base = 1024 if unit.endswith("i") else 1000
    size = int(Decimal(match[1]) * base ** _POWERS[unit.rstrip("i")])
    if not 0 < size <= _LARGEST:
        raise ValueError(f"{text!r} is not a possible file size")
    return size
