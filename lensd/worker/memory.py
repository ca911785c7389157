"""How much memory a process holds, as the kernel counts it."""

from __future__ import annotations

import ctypes

HELD = ("RssAnon", "RssShmem", "VmSwap")


def held(pid: int) -> int:
    """Bytes that ending the process would give back; 0 when it is gone.

    Its own memory in RAM and in swap. Files that it only has mapped (the libraries of torch, some
    hundred megabytes) are not counted: the kernel drops those pages by itself when it needs room.
    """
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as status:
            fields = dict(line.split(":", 1) for line in status if ":" in line)
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(fields[name].split()[0]) << 10 for name in HELD if name in fields)


def give_back() -> None:
    """Hand freed memory back to the system, where the C library has a call for it (glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
