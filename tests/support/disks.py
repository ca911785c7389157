"""Real disks of a chosen size for a test: mounted, and gone again at its end. They need root."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def tmpfs(folder: Path, size: str = "64m") -> Iterator[Path]:
    """A filesystem in memory, mounted at `folder`. Skips the test without the right to mount."""
    if os.geteuid() != 0:
        pytest.skip("mounting a disk needs root")
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def remount(folder: Path, *, read_only: bool) -> None:
    """Turn a mounted disk read-only, or writable again."""
    option = f"remount,{'ro' if read_only else 'rw'}"
    subprocess.run(["mount", "-o", option, str(folder)], check=True)


def fill(folder: Path, leave: int) -> Path:
    """Use a disk up but for some `leave` bytes; returns the file to delete for space."""
    ballast = folder / "ballast"
    free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, free - leave))
    return ballast
