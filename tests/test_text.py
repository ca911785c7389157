"""File names and counts on their way to a terminal or a document."""

from __future__ import annotations

import os
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from lensd.text import outcomes, printable, visible, visible_lines


@given(st.binary(max_size=40))
def test_what_is_visible_steers_no_terminal(name: bytes) -> None:
    """Whatever bytes a name has: text of one line, without a control character."""
    text = visible(os.fsdecode(name))
    assert text.encode("utf-8").decode() == text
    assert not {unicodedata.category(c) for c in text} & {"Cc", "Zl", "Zp"}
    assert not {unicodedata.bidirectional(c) for c in text} & {"LRO", "RLO", "LRE", "RLE", "PDF"}
    assert len(text.splitlines()) <= 1


def test_escapes() -> None:
    """As Python writes them; what people write in names stays, spaces and brackets too."""
    assert visible("a\x1b[31mb\nc\u202egnp.exe") == r"a\x1b[31mb\nc\u202egnp.exe"
    assert visible("Ünïcode 漢字 [bold]x[/bold] 🎨") == "Ünïcode 漢字 [bold]x[/bold] 🎨"
    assert printable("a\x1b\udcff") == "a\x1b\\xff"
    assert visible_lines("a\tb\nc\r") == "a\\tb\nc\\r"


def test_outcomes_are_of_files() -> None:
    """By name, large numbers grouped; versions that gave way to others are no files."""
    counts = {"superseded": 3, "kept": 1, "compressed": 1200}
    assert outcomes(counts) == "1,200 compressed, 1 kept"
    assert outcomes({"superseded": 3}) == ""
