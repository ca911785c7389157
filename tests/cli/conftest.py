"""Runs the real command line as a child process."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import outputs, prepared
from tests.support.limits import PATIENCE

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def run(folder: Path, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run `lensd` in a folder. Checks that its `--json` output is valid under its schema."""
    if options:
        command = [sys.executable, "-m", "lensd", *arguments]
        options = {"capture_output": True, "cwd": folder, "timeout": PATIENCE, **options}
        done = subprocess.run(command, text=True, check=False, **options)
    else:
        done = prepared.run(arguments, folder)
    outputs.check(arguments, done.stdout or "")
    return done


@pytest.fixture
def lensd(tmp_path: Path) -> Run:
    """`lensd(*arguments)` in an empty working folder; extra options go to subprocess.run."""
    return functools.partial(run, tmp_path)
