"""Lower the priority of the worker process below that of other programs on the machine."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform

OOM_SCORE = 500  # of 1000: programs that set no score of their own have less
# The C library has no function for the system call ioprio_set. Its numbers by architecture:
IOPRIO_SET = {"x86_64": 251, "aarch64": 30, "riscv64": 30, "armv7l": 314, "ppc64le": 273}
IOPRIO_WHO_PROCESS = 1
LOWEST_BEST_EFFORT = (2 << 13) | 7  # class 2 (best effort), level 7


def lower_priority(nice: int) -> None:
    """Raise the niceness by `nice`, and have the kernel end this process first without memory.

    With a `nice` above 0, the process also gets the lowest usual priority at the disks. Where the
    kernel or a service manager forbids a change, the process keeps what it has. Call this before
    starting threads, which inherit these priorities.
    """
    with contextlib.suppress(OSError):
        os.nice(nice)
    if nice > 0:
        _lower_disk_priority()
    with contextlib.suppress(OSError):
        _raise_oom_score()


def _lower_disk_priority() -> None:
    """Set the lowest level of the best-effort class.

    A process of the idle class could wait forever at a busy disk.
    """
    number = IOPRIO_SET.get(platform.machine())
    if number is not None:
        ctypes.CDLL(None).syscall(number, IOPRIO_WHO_PROCESS, 0, LOWEST_BEST_EFFORT)


def _raise_oom_score() -> None:
    """Raise the process's own score, which needs no right; a higher score stays."""
    path = "/proc/self/oom_score_adj"
    with open(path, encoding="ascii") as file:
        score = int(file.read())
    if score < OOM_SCORE:
        with open(path, "w", encoding="ascii") as file:
            file.write(str(OOM_SCORE))
