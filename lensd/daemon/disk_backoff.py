"""When to try again after a disk was full, read-only or away."""

from __future__ import annotations

import os
from dataclasses import dataclass

from lensd.errors import DiskUnavailable

PROBE_SECONDS = 5.0
FIRST_TRY_SECONDS = 60.0
LAST_TRY_SECONDS = 900.0
# Other programs change the free space by less than this all the time.
FREED_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Disk:
    """The state of a disk; `free` is in bytes, None for one that is not there."""

    free: int | None
    writable: bool
    device: int | None = None

    @classmethod
    def at(cls, path: str) -> Disk:
        """Of the disk that a path lies on. Raises nothing: an unreadable disk counts as away."""
        try:
            found, device = os.statvfs(path), os.stat(path).st_dev
        except OSError:
            return cls(None, writable=False)
        writable = not found.f_flag & os.ST_RDONLY
        return cls(found.f_bavail * found.f_frsize, writable, device)


def is_better(then: Disk, now: Disk) -> bool:
    """Whether a try is worthwhile: the disk is back, writable again, or has more room."""
    if now.free is None:
        return False
    if then.free is None or now.device != then.device or (now.writable and not then.writable):
        return True
    return now.writable and now.free >= then.free + FREED_BYTES


@dataclass(slots=True)
class DiskBackoff:
    """One fault, from the first job that met it to the next that succeeds. Times are monotonic."""

    fault: DiskUnavailable
    disk: Disk
    next_try: float
    delay: float = FIRST_TRY_SECONDS

    @classmethod
    def begin(cls, fault: DiskUnavailable, now: float) -> DiskBackoff:
        return cls(fault, Disk.at(fault.path), now + FIRST_TRY_SECONDS)

    def is_due(self, now: float) -> bool:
        """Whether a job may try. Where no probe shows the fault (a quota) the pauses grow."""
        return now >= self.next_try or is_better(self.disk, Disk.at(self.fault.path))

    def extend(self, now: float) -> None:
        """A try failed in the same way: wait longer for the next one."""
        self.disk = Disk.at(self.fault.path)
        self.delay = min(2 * self.delay, LAST_TRY_SECONDS)
        self.next_try = now + self.delay
