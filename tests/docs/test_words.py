"""Retired words stay out of code, messages and documentation; the glossary has those to use.

Read: every identifier, docstring, comment and message of lensd/, README.md and docs/*.md. Not read:
tests and bench, docs/decisions (they record how things were called) and subjects of commits.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.docs.rendering import REPOSITORY

# What to write instead -> the retired words, each in every form in which it was used.
RETIRED = {
    "app, services, context": ["house", "workshop", "workshops", "shop"],
    "folder, module, package": ["room", "rooms"],
    "request, client": ["errand", "errands", "desk", "people ask", "tell", "tells", "told"],
    "disk back-off, waiting for the disk": ["hold up", "holds up", "held up", "on hold"],
    "root monitor, watched root, state": ["guard", "guards", "standing", "anchor"],
    "archive check": ["anchors"],
    "progress observer": ["onlooker", "onlookers"],
    "a program, a user, another program": [
        "somebody", "somebody's", "nobody", "whoever", "it is theirs", "they are theirs",
    ],
    "unlink, delete": ["part with", "parted with", "parting with"],
    "again, new": ["anew"],
    "restored": ["had back"],
}  # fmt: skip
PHRASES = {tuple(phrase.split()): say for say, phrases in RETIRED.items() for phrase in phrases}
BY_FIRST_WORD = {first: [p for p in PHRASES if p[0] == first] for first, *_ in PHRASES}
FILES = ("lensd/**/*.py", "lensd/**/*.js", "lensd/**/*.html", "README.md", "docs/*.md")
WORD = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+(?:'s\b)?|[A-Z]+")  # of OneName and ONE_NAME


class Allowed(NamedTuple):
    """A use that stays: lines of these files that match `context`, for a reason."""

    phrase: str
    files: str
    context: str
    reason: str


ALLOWED = [
    Allowed("guard", "lensd/lora/*.py", "", "the overflow guard of int8, the field's own term"),
    Allowed("room", "*", r"room (for|to|in)\b|(make|more|needs|has)[ _]room|^ *(if )?room\b",
            "free space"),
    Allowed("anchor", "lensd/engine/plot.py", "rotation_mode|bbox_to_anchor", "matplotlib's names"),
    Allowed("held up", "*", "lensd_held_up", "the public name of a metric"),
    Allowed("tell", "lensd/*.py", r"\.tell\(\)", "Python's name"),
    Allowed("tells", "*", "tells? .* apart", "to tell apart: to distinguish"),
]  # fmt: skip


class Use(NamedTuple):
    """A retired phrase in a file, and the line on which it starts."""

    phrase: str
    line: int


def uses(text: str) -> Iterator[Use]:
    """Every use of a retired phrase, whatever stands between its words: line ends, `#`, `_`."""
    words = [
        (found.group().lower(), number)
        for number, line in enumerate(text.splitlines(), 1)
        for found in WORD.finditer(line)
    ]
    for at, (word, line) in enumerate(words):
        for phrase in BY_FIRST_WORD.get(word, ()):
            if phrase == tuple(word for word, _ in words[at : at + len(phrase)]):
                yield Use(" ".join(phrase), line)


def files() -> list[Path]:
    """What is read, without what others wrote."""
    found = sorted({path for pattern in FILES for path in REPOSITORY.glob(pattern)})
    return [path for path in found if "vendor" not in path.parts]


def reason(path: str, line: str, phrase: str) -> str | None:
    """Why this use is allowed, if it is."""
    return next(
        (
            allowed.reason
            for allowed in ALLOWED
            if allowed.phrase == phrase
            and fnmatch(path, allowed.files)
            and re.search(allowed.context, line)
        ),
        None,
    )


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_no_retired_word_is_used(path: Path) -> None:
    """The message names line and word, and what to write instead."""
    text, name = path.read_text(encoding="utf-8"), str(path.relative_to(REPOSITORY))
    lines = text.splitlines()
    found = [
        f"{name}:{use.line}: {use.phrase!r}: write {PHRASES[tuple(use.phrase.split())]}"
        for use in uses(text)
        if reason(name, lines[use.line - 1], use.phrase) is None
    ]
    assert [] == found


@pytest.mark.parametrize(
    ("text", "phrases"),
    [
        ("class WorkshopDoor:", ["workshop"]),
        ("the_house = HOUSE", ["house", "house"]),
        ("housekeeping, shopping, rooming, a guardian", []),
        ("# the thread has parted\n    # with it", ["parted with"]),
        ("somebody's file", ["somebody's"]),
        ("`_tell`, tells", ["tell", "tells"]),
    ],
)
def test_words_are_found_in_names_and_across_lines(text: str, phrases: list[str]) -> None:
    assert phrases == [use.phrase for use in uses(text)]
