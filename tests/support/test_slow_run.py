"""tests/support/slow_run.py on small suites."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.rendering import REPOSITORY

SUITE = """
import pathlib, pytest
@pytest.mark.slow
@pytest.mark.parametrize("number", range(4))
def test_it(number):
    count = pathlib.Path(f"runs-{number}")
    runs = int(count.read_text()) + 1 if count.exists() else 1
    count.write_text(str(runs))
    assert runs not in FAILS.get(number, ())
"""


@pytest.mark.lengthy
@pytest.mark.parametrize(
    ("fails", "runs", "code"),
    [
        ({}, [1, 1, 1, 1], 0),
        ({1: [1]}, [1, 4, 1, 1], 0),
        ({1: [1], 3: [1]}, [1, 4, 1, 4], 0),
        ({1: [1, 2]}, [1, 2, 1, 1], 1),
        ({1: [1, 4]}, [1, 4, 1, 1], 1),
        ({0: [1], 1: [1], 2: [1]}, [1, 1, 1, 1], 1),
    ],
)
def test_what_fails_is_repeated(
    tmp_path: Path, fails: dict[int, list[int]], runs: list[int], code: int
) -> None:
    """Three times more; each has to pass, and many failures are not repeated."""
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = slow\n")
    (tmp_path / "test_suite.py").write_text(f"FAILS = {fails}\n{SUITE}")
    done = slow_run(tmp_path)
    assert done.returncode == code
    assert [int((tmp_path / f"runs-{n}").read_text()) for n in range(4)] == runs
    name = "REPEATED, 3 times: test_suite.py::test_it"
    repeated = [number for number in fails if f"{name}[{number}]" in done.stdout]
    assert repeated == (list(fails) if code == 0 else [])


@pytest.mark.lengthy
def test_a_fault_of_the_suite_itself_is_not_repeated(tmp_path: Path) -> None:
    """Such as a module that cannot be imported."""
    (tmp_path / "test_suite.py").write_text("import nonsense_of_no_package\n")
    done = slow_run(tmp_path)
    assert done.returncode == 2
    assert done.stdout.count("test session starts") == 1


def slow_run(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.support.slow_run", f"--rootdir={folder}"]
    env = {"PYTHONPATH": str(REPOSITORY), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
