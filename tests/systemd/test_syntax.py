"""lensd.systemd.syntax: systemd reads names and paths from unit files as they are."""

from __future__ import annotations

import os
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensd.systemd.syntax import argument, is_expressible, mount_unit, path_value
from tests.support.marks import needs_program

PATHS = ["/", "/srv/a b-c%d", "/srv/.x/.y", "/.z/q\\w", "/srv/a:b_c.d", "/srv/\udce9", "/mnt/é"]


@needs_program("systemd-escape")
@pytest.mark.parametrize("path", PATHS)
def test_mount_units_are_named_as_systemd_names_them(path: str) -> None:
    """The names equal the output of `systemd-escape --path --suffix=mount`."""
    command = [b"systemd-escape", b"--path", b"--suffix=mount", os.fsencode(path)]
    assert mount_unit(path) == os.fsdecode(subprocess.check_output(command)).rstrip("\n")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("/srv/loras", "/srv/loras"),
        ("/srv/my loras", '"/srv/my loras"'),
        ("/srv/50%", '"/srv/50%%"'),
        ('/srv/a"b', '"/srv/a\\"b"'),
        ("/srv/a\\b", '"/srv/a\\\\b"'),
        ("/srv/é", '"/srv/é"'),
    ],
)
def test_path_value(path: str, value: str) -> None:
    """It is quoted if needed; a percent sign is not a specifier."""
    assert path_value(path) == value


@pytest.mark.parametrize("path", ["/srv/\udce9", "/srv/a\nb", "/srv/\x7f"])
def test_a_path_that_a_unit_file_cannot_contain(path: str) -> None:
    """It raises ValueError."""
    assert not is_expressible(path)
    with pytest.raises(ValueError, match="a unit file cannot contain"):
        path_value(path)


@pytest.mark.parametrize(
    ("text", "word"),
    [("/a b/$HOME", '"/a b/$$HOME"'), ("/n\udce9\n", '"/n\\xe9\\x0a"'), ("50%", '"50%%"')],
)
def test_argument(text: str, word: str) -> None:
    """systemd expands nothing in it, and it may have any byte."""
    assert argument(text) == word


@given(st.binary(min_size=1, max_size=40).filter(lambda name: b"\0" not in name))
def test_an_argument_is_one_line_of_ascii(name: bytes) -> None:
    """The unit file stays valid for any file name."""
    word = argument(os.fsdecode(name))
    assert word.isascii()
    assert word.isprintable()
