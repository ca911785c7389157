"""The checks around every test."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).with_name("conftest.py")

INNER = """
import os
from pathlib import Path

def test_writes_to_the_real_home():
    folder = Path(os.environ["REAL_HOME"], ".config/lensd")
    folder.mkdir(parents=True)

def test_writes_to_its_own_home():
    folder = Path.home() / ".config/lensd"
    folder.mkdir(parents=True)
    assert not folder.is_relative_to(os.environ["REAL_HOME"])
"""


def test_a_test_has_an_empty_home(home: Path) -> None:
    assert Path.home() == home
    assert list(home.iterdir()) == []
    assert not [name for name in os.environ if name.startswith("XDG_") and name.endswith("_HOME")]


@pytest.mark.slow
def test_only_a_test_that_writes_to_the_real_home_fails(tmp_path: Path) -> None:
    """Run for real in a pytest of its own, whose real home is a folder here."""
    real = tmp_path / "real"
    real.mkdir()
    shutil.copy(CONFTEST, tmp_path)
    (tmp_path / "test_inner.py").write_text(INNER)
    environment = os.environ | {"HOME": str(real), "REAL_HOME": str(real)}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", str(tmp_path)]
    done = subprocess.run(
        [*command, str(tmp_path)],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "2 passed, 1 error" in done.stdout
    assert f"the test wrote into the real home: ['{real}/.config/lensd']" in done.stdout
