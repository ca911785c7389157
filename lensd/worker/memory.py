"""How much memory a process uses, as the kernel counts it, and how much the worker may use."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterator
from typing import Literal, TypeAlias

SMALLEST_LIMIT = 2**30  # of `auto`: on a small machine a real file may need half a gigabyte
_CGROUPS = "/sys/fs/cgroup"
_COUNTED = re.compile(rb"^(?:RssAnon|RssShmem|VmSwap):\s*(\d+)", re.MULTILINE)


def used_bytes(pid: int) -> int:
    """Bytes that the end of the process would free; 0 if it has ended.

    They are its own memory in RAM and in swap. Files that it only maps (the libraries of torch,
    some hundred megabytes) are not counted: the kernel drops those pages when it needs room.
    """
    try:
        with open(f"/proc/{pid}/status", "rb", buffering=0) as status:
            found = _COUNTED.findall(status.read())
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(kilobytes) << 10 for kilobytes in found)


Limit: TypeAlias = int | Literal["auto"] | None  # `worker.memory_limit`


def limit(setting: Limit, processes: int = 1) -> int | None:
    """The limit in bytes of one of some processes, None without one.

    `auto` is half of the memory that lensd can have, and at least SMALLEST_LIMIT: the other half is
    for the programs that use the files.
    """
    if setting != "auto":
        return setting
    return max(SMALLEST_LIMIT, available_bytes() // 2 // processes)


def count_processes(setting: int, memory_limit: Limit) -> int:
    """How many processes `worker.processes` means.

    0 is one for each core, as far as half of the memory that lensd can have suffices for them.
    """
    if setting:
        return setting
    need = memory_limit if isinstance(memory_limit, int) else SMALLEST_LIMIT
    return max(1, min(len(os.sched_getaffinity(0)), available_bytes() // 2 // need))


def available_bytes() -> int:
    """The machine's memory, or what the cgroups of this process (a container) leave of it."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
            return min([machine, *cgroup_limits(file.read())])
    except FileNotFoundError:
        return machine


def cgroup_limits(table: str, mounted: str = _CGROUPS) -> Iterator[int]:
    """The limits of the cgroups in `table` (/proc/PID/cgroup) and of those above them.

    A container sees its own cgroup as the top one, also where the table has the host's path.
    """
    for line in table.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":  # version 2
            top, name = mounted, "memory.max"
        elif "memory" in controllers.split(","):
            top, name = os.path.join(mounted, "memory"), "memory.limit_in_bytes"
        else:
            continue
        parts = [part for part in path.split("/") if part]
        for depth in range(len(parts) + 1):
            if (found := _read_limit(os.path.join(top, *parts[:depth], name))) is not None:
                yield found


def _read_limit(path: str) -> int | None:
    try:
        with open(path, encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):  # there is no such cgroup here, or its limit is `max`
        return None


def return_freed_memory() -> None:
    """Give freed memory back to the system, where the C library has a call for it (glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
