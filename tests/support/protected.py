"""Files that the kernel lets nobody replace."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def protected(path: Path, flag: str) -> Iterator[None]:
    """`chattr +i` or `+a` for the block; skips where the filesystem has no such flags."""
    done = subprocess.run(["chattr", f"+{flag}", path], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("this filesystem has no attribute that chattr sets")
    try:
        yield
    finally:
        subprocess.run(["chattr", f"-{flag}", path], check=True)
