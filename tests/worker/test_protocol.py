"""One JSON object a line."""

from __future__ import annotations

import os

import pytest

from lensd.worker.protocol import decode, encode


def test_any_name_makes_the_way_in_one_ascii_line() -> None:
    """Newlines, separators and bytes that are not UTF-8."""
    message = {"path": os.fsdecode(b"/a\n\xe9\xff"), "text": "\u2028é"}
    line = encode(message)
    assert line.isascii()
    assert line.count(b"\n") == 1
    assert message == decode(line)


def test_only_objects_are_messages() -> None:
    """What else a confused process says is a fault."""
    with pytest.raises(TypeError):
        decode(b"[1]\n")
