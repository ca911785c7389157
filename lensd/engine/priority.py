"""How readily the worker gives way to the other programs of the machine."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform

OOM_SCORE = 500  # of 1000: above every program that did not ask to go first
# ioprio_set has no function in the C library. Numbers as in the kernel's tables.
IOPRIO_SET = {"x86_64": 251, "aarch64": 30, "riscv64": 30, "armv7l": 314, "ppc64le": 273}
IOPRIO_WHO_PROCESS = 1
LAST_OF_BEST_EFFORT = (2 << 13) | 7


def give_way(nice: int) -> None:
    """Take less of the processor and of the disks, the more the higher `nice` (0: as others do).

    And let the kernel take this process first when memory runs out. What the kernel or a service
    manager forbids is left as it is: it is no reason not to compute. To be called before threads
    are started, which inherit it.
    """
    with contextlib.suppress(OSError):
        os.nice(nice)
    if nice > 0:
        _last_at_the_disk()
    with contextlib.suppress(OSError):
        _first_out_of_memory()


def _last_at_the_disk() -> None:
    """The lowest level of the usual class; the idle class could wait for ever on a busy disk."""
    number = IOPRIO_SET.get(platform.machine())
    if number is not None:
        ctypes.CDLL(None).syscall(number, IOPRIO_WHO_PROCESS, 0, LAST_OF_BEST_EFFORT)


def _first_out_of_memory() -> None:
    """Raising the own score needs no right; who set it higher still meant it."""
    path = "/proc/self/oom_score_adj"
    with open(path, encoding="ascii") as file:
        now = int(file.read())
    if now < OOM_SCORE:
        with open(path, "w", encoding="ascii") as file:
            file.write(str(OOM_SCORE))
