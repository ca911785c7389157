"""The man page is that of the code, and man shows it."""

from __future__ import annotations

import os
import subprocess

import pytest

from lensd.cli import COMMANDS
from tests.docs.man_page import man_page
from tests.docs.rendering import MAN_PAGE
from tests.support.marks import needs_program


def test_it_is_made_from_the_code() -> None:
    """`python -m tests.docs.rendering` writes it again."""
    assert MAN_PAGE.read_text(encoding="utf-8") == man_page()


@needs_program("man")
@needs_program("groff")
@pytest.mark.parametrize("columns", [60, 80, 120])
def test_man_shows_it_without_a_warning(columns: int) -> None:
    """Each command has a heading; examples keep their lines; nothing is lost to a macro."""
    environment = {**os.environ, "MANWIDTH": str(columns), "LC_ALL": "C.UTF-8", "MANROFFOPT": "-ww"}
    done = subprocess.run(
        ["man", "-l", "--warnings=w", str(MAN_PAGE)],
        capture_output=True,
        text=True,
        env={**environment, "MAN_KEEP_FORMATTING": "", "PAGER": "cat"},
        check=True,
    )
    assert [w for w in done.stderr.splitlines() if "cannot break line" not in w] == []
    for verb in COMMANDS:
        assert f"   lensd {verb} " in done.stdout
    assert "lensd service --install -c /etc/lensd/config.yaml" in done.stdout
    assert "~/.config/lensd/config.yaml" in done.stdout
