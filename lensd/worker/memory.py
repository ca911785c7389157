"""How much memory a process uses, as the kernel counts it."""

from __future__ import annotations

import ctypes

_COUNTED = ("RssAnon", "RssShmem", "VmSwap")


def used_bytes(pid: int) -> int:
    """Bytes that the end of the process would free; 0 if it has ended.

    They are its own memory in RAM and in swap. Files that it only maps (the libraries of torch,
    some hundred megabytes) are not counted: the kernel drops those pages when it needs room.
    """
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as status:
            fields = dict(line.split(":", 1) for line in status if ":" in line)
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(fields[name].split()[0]) << 10 for name in _COUNTED if name in fields)


def return_freed_memory() -> None:
    """Give freed memory back to the system, where the C library has a call for it (glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
