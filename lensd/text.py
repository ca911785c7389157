"""Sizes, counts and file names as people read them."""

from __future__ import annotations

from collections.abc import Mapping

# C0 and C1 controls, DEL, what ends a line, and what turns the direction of writing around.
_UNSEEN = (
    *range(0x20),
    *range(0x7F, 0xA0),
    *range(0x200E, 0x2010),
    *range(0x2028, 0x202F),
    *range(0x2066, 0x206A),
)
_ESCAPES = {code: chr(code).encode("unicode_escape").decode() for code in _UNSEEN}


def printable(path: str) -> str:
    """A path that any encoding can write: bytes that are not UTF-8 as backslash escapes."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def visible(text: str) -> str:
    """One line for people's eyes: `printable`, and control characters as escapes too."""
    return printable(text).translate(_ESCAPES)


def visible_lines(text: str) -> str:
    """A text of several lines, each of them `visible`."""
    return "\n".join(map(visible, text.split("\n")))


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
