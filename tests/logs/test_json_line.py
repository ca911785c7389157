"""Any fields become one valid line."""

from __future__ import annotations

import base64
import json
import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensd.logs.json_line import MAX_LINE, fitted, plain

ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(st.characters(codec=None, exclude_categories=()), max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=12,
)


def strictly(text: bytes) -> Any:
    """JSON as the standard has it: without NaN and Infinity."""

    def refuse(name: str) -> None:
        raise ValueError(name)

    return json.loads(text.decode("utf-8"), parse_constant=refuse)


@given(st.dictionaries(st.sampled_from(["path", "x", "archive_path", "y"]), ANYTHING))
def test_any_value_is_one_line_of_strict_json(fields: dict[str, Any]) -> None:
    """No value raises, breaks the line or leaves JSON; no reader sees a second line."""
    line = fitted(plain(fields))
    found = strictly(line)
    assert set(fields) <= set(found)
    assert len(line.decode().splitlines()) == 1
    assert len(line) <= MAX_LINE


@given(st.binary(min_size=1, max_size=60).filter(lambda raw: b"\0" not in raw))
def test_a_path_can_always_be_had_back(raw: bytes) -> None:
    """From `path_b64` where the name is not UTF-8, else from `path` itself."""
    found = plain({"path": os.fsdecode(raw)})
    if "path_b64" in found:
        assert base64.b64decode(found["path_b64"]) == raw
    else:
        assert found["path"].encode() == raw


def test_a_name_that_is_not_utf8_is_readable() -> None:
    """Backslash escapes in the text, the bytes beside it, for every field that is a path."""
    name = os.fsdecode(b"/caf\xe9/\xc3\xa9")
    assert plain({"path": name, "archive_path": name, "message": name}) == {
        "path": "/caf\\xe9/é",
        "path_b64": base64.b64encode(b"/caf\xe9/\xc3\xa9").decode(),
        "archive_path": "/caf\\xe9/é",
        "archive_path_b64": base64.b64encode(b"/caf\xe9/\xc3\xa9").decode(),
        "message": "/caf\\xe9/é",
    }


def test_values_of_python_become_those_of_json() -> None:
    """Non-finite numbers are null, and tuples are lists."""
    fields = {"nan": float("nan"), "inf": {"deep": [float("-inf"), 1.5]}, "pair": (1, True)}
    assert plain(fields) == {"nan": None, "inf": {"deep": [None, 1.5]}, "pair": [1, True]}


@pytest.mark.parametrize("text", ["a\nb", "a\x85b", "a\u2028b", "a\x9bb"])
def test_separators_and_control_characters_are_escaped(text: str) -> None:
    """No reader breaks the line at them, no terminal obeys them, and they come back."""
    line = fitted({"path": text})
    assert strictly(line) == {"path": text}
    assert line.isascii()


def test_other_letters_stay_readable() -> None:
    """A Japanese name is not a row of escapes."""
    assert "日本語" in fitted({"path": "日本語"}).decode()


def test_a_long_message_is_cut_and_says_so() -> None:
    """journald would cut the line in the middle; the path stays whole."""
    path = "/" + "p" * 4000
    found = strictly(fitted({"path": path, "message": "é" * 100_000, "n": 1}))
    assert found["path"] == path
    assert found["n"] == 1
    assert found["message"].startswith("ééé")
    assert found["message"].endswith("more characters)")


def test_a_long_list_is_cut() -> None:
    """As many of its items stay as fit."""
    line = fitted({"symlinked_folders": [f"/srv/loras/{'x' * 200}/{n}" for n in range(10_000)]})
    assert len(line) <= MAX_LINE
    assert len(strictly(line)["symlinked_folders"]) >= 50


def test_the_worst_names_fit_too() -> None:
    """Paths of 4096 bytes that are all escapes."""
    path = os.fsdecode(b"\xe9" * 4095)
    fields = {"path": path, "archive_path": path, "rescued_path": path, "message": path * 20}
    line = fitted(plain(fields))
    assert len(line) <= MAX_LINE
    assert base64.b64decode(strictly(line)["path_b64"]) == os.fsencode(path)


def test_a_line_that_fits_is_not_touched() -> None:
    """Up to the limit nothing is cut."""
    text = "x" * (MAX_LINE - 20)
    assert strictly(fitted({"message": text})) == {"message": text}
