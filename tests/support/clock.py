"""A wrong clock for a process and its children, set while they run (libfaketime)."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import psutil


class Clock:
    """The wall clock of each process that has `env`: an offset in the file `path`, as "+1y".

    Times of files stay right. With `monotonic` the monotonic clock jumps, too.
    """

    def __init__(self, path: Path, *, monotonic: bool = False) -> None:
        self._path = path
        _remove_leftovers()
        self.set("+0")
        self.env = {
            "LD_PRELOAD": _library(),
            "FAKETIME_TIMESTAMP_FILE": str(path),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "0" if monotonic else "1",
            "NO_FAKE_STAT": "1",
        }

    def set(self, offset: str) -> None:
        """At once: the library reads the file with every question."""
        fresh = self._path.with_suffix(".new")
        fresh.write_text(offset)
        os.rename(fresh, self._path)


def _remove_leftovers() -> None:
    """Remove the shared memory of killed processes: none with the same pid could start."""
    for pattern in ("faketime_shm_*", "sem.faketime_sem_*"):
        for path in Path("/dev/shm").glob(pattern):  # noqa: S108
            if not psutil.pid_exists(int(path.name.rpartition("_")[2])):
                path.unlink(missing_ok=True)


def _library() -> str:
    """libfaketime, as the program `faketime` puts it before another."""
    done = subprocess.run(
        ["faketime", "-f", "+0y", "sh", "-c", "echo $LD_PRELOAD"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.split()[0].split(":")[0]
