"""Markdown, as far as the tests read it: fenced blocks, links, anchors, rows of tables."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_INLINE = re.compile(r"`([^`\n]+)`")


class Block(NamedTuple):
    """A fenced block: its language, and its text."""

    language: str
    text: str


def blocks(text: str) -> list[Block]:
    return [Block(*found) for found in _FENCE.findall(text)]


def prose(text: str) -> str:
    """The page without its fenced blocks."""
    return _FENCE.sub("", text)


def section(text: str, heading: str) -> str:
    """What stands under a heading of the second level. Raises ValueError when it is not there."""
    _, _, rest = text.partition(f"\n## {heading}\n")
    if not rest:
        raise ValueError(f"there is no section {heading!r}")
    return rest.partition("\n## ")[0]


def links(text: str) -> list[str]:
    return _LINK.findall(prose(text))


def anchors(text: str) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in _HEADING.findall(prose(text))
    }


def first_cells(text: str) -> list[str]:
    """The first cell of every row of every table, without its backticks."""
    rows = (line for line in text.splitlines() if line.startswith("| "))
    return [row.split("|")[1].strip().strip("`") for row in rows]


def command_lines(page: Path) -> Iterator[str]:
    """Every `lensd ...` in blocks and in backticks, comments and prompts left away."""
    text = page.read_text(encoding="utf-8")
    for block in blocks(text):
        if block.language in ("sh", "console"):
            for line in block.text.splitlines():
                command = line.removeprefix("$ ").removeprefix("sudo ").partition(" #")[0].strip()
                if command.startswith("lensd "):
                    yield command
    for inline in _INLINE.findall(prose(text)):
        if inline.startswith("lensd ") and "..." not in inline:
            yield inline
