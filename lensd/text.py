"""Sizes, counts, file names and lines as people read them."""

from __future__ import annotations

import re
import textwrap
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
_ESCAPED = re.compile(r"\\(?:x[0-9a-f]{2}|u[0-9a-f]{4}|[nrt])")


def printable(path: str) -> str:
    """The path as valid Unicode: bytes that are not UTF-8 become backslash escapes."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def visible(text: str) -> str:
    """The text as one safe line for a terminal: as `printable`, with control characters escaped."""
    return printable(text).translate(_ESCAPES)


def names_shown_as(text: str) -> tuple[str, ...]:
    r"""The other names that `visible` shows as this text, the likeliest first.

    `\x85` stands for a byte that is not UTF-8, or for a control character.
    """

    def unescape(first_byte: int) -> str:
        def replace(found: re.Match[str]) -> str:
            escape = found[0]
            code = ord(escape.encode().decode("unicode_escape"))
            is_byte = escape[1] == "x" and code >= first_byte
            return bytes([code]).decode("utf-8", "surrogateescape") if is_byte else chr(code)

        return _ESCAPED.sub(replace, text)

    names = dict.fromkeys((unescape(0x80), unescape(0x100)))
    return tuple(n for n in names if n != text and "\0" not in n and visible(n) == text)


def visible_lines(text: str) -> str:
    """Each line of the text as `visible`; its line breaks stay."""
    return "\n".join(map(visible, text.split("\n")))


def break_line(line: str, width: int, indent: str) -> list[str]:
    """Lines of at most `width` characters, the further ones indented; a longer word stays whole."""
    return textwrap.wrap(
        line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def size(count: float) -> str:
    """A number of bytes with its unit, in powers of 1000: `40.3 kB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def plural(count: int, noun: str = "file", nouns: str = "") -> str:
    """E.g. `1 file`, `2,000 files`. `nouns`: a plural that does not end in s alone."""
    return f"{count:,} {noun if count == 1 else nouns or f'{noun}s'}"


def outcomes(counts: Mapping[str, int]) -> str:
    """Files by outcome: `2 compressed, 1 failed`.

    Without `superseded`, which counts no files, and `replaced`: such a file has a newer version,
    which counts with its own outcome.
    """
    left_out = ("superseded", "replaced")
    files = sorted((name, count) for name, count in counts.items() if name not in left_out)
    return ", ".join(f"{count:,} {name}" for name, count in files)
