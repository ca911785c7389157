"""File names as text: for documents, and for people's terminals, which obey control characters."""

from __future__ import annotations

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
