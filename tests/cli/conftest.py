"""The real command line as a child process."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def run(folder: Path, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """One call of `lensd` in a folder."""
    command = [sys.executable, "-m", "lensd", *arguments]
    options = {"capture_output": True, "cwd": folder, "timeout": 60, **options}
    return subprocess.run(command, text=True, check=False, **options)


@pytest.fixture
def lensd(tmp_path: Path) -> Run:
    """`lensd(*arguments)` in an empty working folder; extra options go to subprocess.run."""
    return functools.partial(run, tmp_path)
