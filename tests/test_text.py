"""File names and counts as text."""

from __future__ import annotations

import os
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from lensd.text import outcomes, printable, visible, visible_lines


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


def test_outcomes() -> None:
    """Sorted by name, with grouped digits, without superseded versions."""
    counts = {"superseded": 3, "kept": 1, "compressed": 1200}
    assert outcomes(counts) == "1,200 compressed, 1 kept"
    assert outcomes({"superseded": 3}) == ""
