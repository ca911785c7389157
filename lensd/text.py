"""Sizes, counts and file names as people read them."""

from __future__ import annotations

from collections.abc import Mapping

# C0 and C1 controls, DEL, line separators, and controls of the writing direction.
_UNSEEN = (
    *range(0x20),
    *range(0x7F, 0xA0),
    *range(0x200E, 0x2010),
    *range(0x2028, 0x202F),
    *range(0x2066, 0x206A),
)
_ESCAPES = {code: chr(code).encode("unicode_escape").decode() for code in _UNSEEN}


def printable(path: str) -> str:
    """The path as valid Unicode: bytes that are not UTF-8 become backslash escapes."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def visible(text: str) -> str:
    """The text as one safe line for a terminal: as `printable`, with control characters escaped."""
    return printable(text).translate(_ESCAPES)


def visible_lines(text: str) -> str:
    """Each line of the text as `visible`; its line breaks stay."""
    return "\n".join(map(visible, text.split("\n")))


def size(count: float) -> str:
    """A number of bytes with its unit, in powers of 1000: `40.3 kB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def outcomes(counts: Mapping[str, int]) -> str:
    """Files by outcome: `2 compressed, 1 failed`. `superseded` counts no files and is left out."""
    files = sorted((name, count) for name, count in counts.items() if name != "superseded")
    return ", ".join(f"{count:,} {name}" for name, count in files)
