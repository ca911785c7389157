"""lensd.config.yaml_lines: values, lines and faults of YAML text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensd.config.yaml_lines import parse


def test_lines_are_those_of_the_keys() -> None:
    """Every key and list item has its line; blank lines and comments count."""
    text = parse(b"# c\n\nwatch:\n  - path: a\n    mode:\n      ultra\n  - path: b\n")
    assert text.data == {"watch": [{"path": "a", "mode": "ultra"}, {"path": "b"}]}
    assert text.line(("watch",)) == 3
    assert text.line(("watch", 0, "path")) == 4
    assert text.line(("watch", 0, "mode")) == 5
    assert text.line(("watch", 1)) == 7


def test_a_missing_key_has_the_line_of_its_section() -> None:
    """Here that is the line of the list item."""
    assert parse(b"a: 1\nwatch:\n  - name: x\n").line(("watch", 0, "path")) == 3


def test_a_duplicate_key_is_a_fault_with_both_lines() -> None:
    """The first value is used; the fault is at the second and names the line of the first."""
    text = parse(b"defaults:\n  energy: 0.9\n  mode: rank\n  energy: 0.8\n")
    assert text.data == {"defaults": {"energy": 0.9, "mode": "rank"}}
    (fault,) = text.faults
    assert (fault.line, fault.key) == (4, "defaults.energy")
    assert "line 2" in fault.message


@pytest.mark.parametrize(
    "value",
    ["!!python/object/apply:os.system ['true']", "!thing x", "!!binary aGk=", "!!set {a, b}"],
)
def test_tags_are_refused(value: str) -> None:
    """A tag makes no object: it is a fault of its key."""
    text = parse(f"a: {value}\n".encode())
    (fault,) = text.faults
    assert fault.key == "a"
    assert "tag" in fault.message


def test_values_are_those_of_yaml_and_dates_stay_text() -> None:
    """Numbers, booleans and null are as in YAML; a number in quotes is text."""
    text = parse(b"[1, 0.5, true, null, '1', 2024-05-01, x]")
    assert text.data == [1, 0.5, True, None, "1", "2024-05-01", "x"]
    assert text.faults == []


def test_a_key_that_yaml_reads_as_a_boolean_keeps_its_name() -> None:
    """An unquoted `on` is a key like any other."""
    assert parse(b"on: 1\n").data == {"on": 1}


def test_anchors_are_followed() -> None:
    """An alias has the value of its anchor."""
    assert parse(b"a: &x [1, 2]\nb: *x\n").data == {"a": [1, 2], "b": [1, 2]}


@pytest.mark.parametrize(
    "raw",
    [
        b"a: &x [*x]\n",
        b"a: &a [x,x,x,x,x,x,x,x,x]\n"
        + b"".join(
            f"{chr(97 + n)}: &{chr(97 + n)} [{','.join([f'*{chr(96 + n)}'] * 9)}]\n".encode()
            for n in range(1, 9)
        ),
        b"[" * 500 + b"]" * 500,
        b"[" * 100_000,
        b"#" * 1_000_001,
    ],
    ids=["itself", "billion laughs", "deep", "very deep", "large"],
)
def test_a_document_that_is_too_large_is_one_fault(raw: bytes) -> None:
    """Depth and size are limited, also if aliases or references to itself cause them."""
    text = parse(raw)
    assert text.data is None
    assert len(text.faults) == 1


@pytest.mark.parametrize(
    ("raw", "line", "words"),
    [
        (b"a:\n\t- b\n", 2, "spaces"),
        (b"a: b: c\n", 1, "quotes"),
        (b"a: 1\nb: [1, 2\n", 3, "brackets"),
        (b"ok: 1\nname: \xe9\n", 2, "UTF-8"),
        (b"ok: 1\n\x01\n", 2, "check"),
        (b"a: 1\n---\nb: 2\n", 2, "check"),
        (b"a: *nobody\n", 1, "check"),
    ],
)
def test_a_syntax_fault_has_its_line_and_a_remedy(raw: bytes, line: int, words: str) -> None:
    """Text that is not YAML, or not UTF-8, is one fault at its line."""
    (fault,) = parse(raw).faults
    assert line == fault.line
    assert words in fault.remedy


def test_an_impossible_number_or_date_is_a_fault() -> None:
    """It is a fault of its key."""
    text = parse(b"a: !!int x\nb: 2024-99-99\nc: 1\n")
    assert [(fault.line, fault.key) for fault in text.faults] == [(1, "a"), (2, "b")]


def test_merge_keys_and_keys_that_are_lists_are_faults() -> None:
    """`<<` and complex keys each have a fault."""
    text = parse(b"a: &x {b: 1}\nc:\n  <<: *x\n? [1]\n: 2\n")
    assert [fault.line for fault in text.faults] == [3, 4]


@given(st.binary(max_size=200) | st.text("a:-[]{}&*!\n\t '\"#|>?0", max_size=80).map(str.encode))
def test_any_bytes_are_read_or_are_faults(raw: bytes) -> None:
    """No content of a file raises an error."""
    text = parse(raw)
    assert all(fault.line >= 1 and fault.message and fault.remedy for fault in text.faults)
