"""File names and counts as text."""

from __future__ import annotations

import os
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from lensd.text import names_shown_as, outcomes, printable, visible, visible_lines


@given(st.binary(max_size=40))
def test_visible_text_cannot_control_a_terminal(name: bytes) -> None:
    """Any name becomes one line of text without control characters."""
    text = visible(os.fsdecode(name))
    assert text.encode("utf-8").decode() == text
    assert not {unicodedata.category(c) for c in text} & {"Cc", "Zl", "Zp"}
    assert not {unicodedata.bidirectional(c) for c in text} & {"LRO", "RLO", "LRE", "RLE", "PDF"}
    assert len(text.splitlines()) <= 1


def test_escapes() -> None:
    """Control characters become Python's escapes; all other characters stay."""
    assert visible("a\x1b[31mb\nc\u202egnp.exe") == r"a\x1b[31mb\nc\u202egnp.exe"
    assert visible("Ünïcode 漢字 [bold]x[/bold] 🎨") == "Ünïcode 漢字 [bold]x[/bold] 🎨"
    assert printable("a\x1b\udcff") == "a\x1b\\xff"
    assert visible_lines("a\tb\nc\r") == "a\\tb\nc\\r"


@given(st.one_of(st.binary(max_size=20).map(os.fsdecode), st.text(max_size=20)))
def test_a_name_as_it_is_shown_finds_the_name(name: str) -> None:
    """What a message shows of a name leads back to it, as far as one name has that form."""
    text = visible(name)
    for found in names_shown_as(text):
        assert visible(found) == text
        assert found != text
    if "\\" not in name and text != name and "\0" not in name:
        has_bytes = any("\udc80" <= c <= "\udcff" for c in name)
        has_c1 = any("\x80" <= c <= "\x9f" for c in name)
        assert name in names_shown_as(text) or (has_bytes and has_c1)


def test_outcomes() -> None:
    """Sorted by name, with grouped digits, without superseded versions."""
    counts = {"superseded": 3, "kept": 1, "compressed": 1200}
    assert outcomes(counts) == "1,200 compressed, 1 kept"
    assert outcomes({"superseded": 3}) == ""
