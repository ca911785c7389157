"""Lines about files that fit the width of a terminal: paths are shortened, words are not broken."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Self

from rich.cells import cell_len, set_cell_size

from lensd.config.model import Watch
from lensd.logs.events import FileAnalyzed, FileCompressed, JobEnd
from lensd.store.paths import is_below
from lensd.text import break_line, size, visible

LEAST_PATH = 24  # columns that a path keeps before the numbers behind it become fewer
_INDENT = " " * 12  # below the path, behind the outcome


class ShortPaths:
    """Writes paths as `loras/style.safetensors`: the watched folder's name, and the path in it.

    `names`: those of the watched folders, by path.
    """

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = names

    @classmethod
    def of(cls, watches: Iterable[Watch]) -> Self:
        return cls({watch.root: watch.name for watch in watches})

    def path(self, path: str) -> str:
        """A path elsewhere stays as it is."""
        for root, name in self._names.items():
            if is_below(path, root):
                return visible(os.path.normpath(os.path.join(name, os.path.relpath(path, root))))
        return visible(path)

    def text(self, message: str) -> str:
        """A message with the paths in it."""
        for root, name in self._names.items():
            message = message.replace(f"{visible(root)}/", f"{name}/")
        return message

    def fit(self, message: str, width: int) -> str:
        """A message as `text`, in lines of at most `width` columns."""
        return "\n".join(wrap(self.text(message), width, "  "))


def shorten(text: str, width: int) -> str:
    """The text in at most `width` columns: `…` takes the place of its middle."""
    if cell_len(text) <= width:
        return text
    head = max(0, (width - 1) // 3)
    tail = max(0, width - 1 - head)
    end = text[-tail:] if tail else ""
    while cell_len(end) > tail:  # wide characters
        end = end[1:]
    return f"{set_cell_size(text, head).rstrip()}…{end}"


def wrap(text: str, width: int, indent: str = _INDENT) -> list[str]:
    """Lines of at most `width` columns; a word that is longer is shortened in its middle."""
    space = max(1, width - len(indent))
    return break_line(" ".join(shorten(word, space) for word in text.split(" ")), width, indent)


def describe_end(event: JobEnd, paths: ShortPaths, width: int) -> list[str]:
    """The lines about the outcome of a file."""
    outcome, path = event.name.removeprefix("file."), paths.path(event.path)
    numbers = _numbers(event)
    if not numbers:
        return describe(outcome, path, paths.text(visible(event.message)), width)  # type: ignore[union-attr]  # not of these
    space = width - len(_INDENT) - 2
    shown = next(
        (n for n in numbers if space - len(n) >= min(cell_len(path), LEAST_PATH)), numbers[-1]
    )
    return [f"{outcome:<11} {shorten(path, max(1, space - len(shown)))}: {shown}"]


def describe(outcome: str, path: str, message: str, width: int) -> list[str]:
    """The lines about a file with a message."""
    head = f"{outcome:<11} {shorten(path, max(1, width - len(_INDENT) - 1))}:"
    if cell_len(f"{head} {message}") <= width:
        return [f"{head} {message}"]
    used, word = cell_len(head), message.partition(" ")[0]
    if used + max(24, 1 + cell_len(word)) > width:
        return [head, *wrap(f"{_INDENT}{message}", width)]
    first, *more = wrap(f"{' ' * used} {message}", width)
    return [f"{head}{first[used:]}", *more]


def _numbers(event: JobEnd) -> Sequence[str]:
    """What a file has become, from the longest text to the shortest; empty: it has a message."""
    if isinstance(event, FileCompressed):
        sizes = f"{size(event.bytes_in)} -> {size(event.bytes_out)}"
        ratio = f"{sizes}, {event.ratio:.1f} times smaller"
        return f"{ratio}, delta error {event.delta_error:.4f}", ratio, sizes
    if isinstance(event, FileAnalyzed):
        found = event.predicted
        return (
            f"rank {size(found.rank)}, int8 {size(found.int8)}, ultra {size(found.ultra)}",
            f"ultra {size(found.ultra)}",
        )
    return ()


def describe_rest(rest: int, more: str) -> Iterator[str]:
    """How many items a list leaves out, and what shows them; nothing if it has all of them."""
    if rest > 0:
        yield f"  and {rest:,} more; {more}"
