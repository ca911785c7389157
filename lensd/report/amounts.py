"""Numbers as people read them."""

from __future__ import annotations

from collections.abc import Mapping


def size(count: float) -> str:
    """Bytes in powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def outcomes(counts: Mapping[str, int]) -> str:
    """How many files ended how; `superseded` are versions that gave way to others, and no files."""
    ends = sorted((end, count) for end, count in counts.items() if end != "superseded")
    return ", ".join(f"{count:,} {end}" for end, count in ends)
