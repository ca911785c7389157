"""Work that waits for a disk: full, read-only, not there. One alert, and on by itself."""

from __future__ import annotations

import os
from dataclasses import dataclass

from lensd.errors import DiskUnavailable

PROBE_SECONDS = 5.0
FIRST_TRY_SECONDS = 60.0
LAST_TRY_SECONDS = 900.0
# Less than this is the noise of other programs, not somebody who makes room.
FREED_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Disk:
    """What a disk looks like; `free` is in bytes, None for one that is not there."""

    free: int | None
    writable: bool
    device: int | None = None

    @classmethod
    def at(cls, path: str) -> Disk:
        """Never raises: a disk that cannot be asked is not there."""
        try:
            found, device = os.statvfs(path), os.stat(path).st_dev
        except OSError:
            return cls(None, writable=False)
        writable = not found.f_flag & os.ST_RDONLY
        return cls(found.f_bavail * found.f_frsize, writable, device)


def is_better(then: Disk, now: Disk) -> bool:
    """Whether it is worth a new try: there again, writable again, or somebody made room."""
    if now.free is None:
        return False
    if then.free is None or now.device != then.device or (now.writable and not then.writable):
        return True
    return now.writable and now.free >= then.free + FREED_BYTES


@dataclass(slots=True)
class DiskBackoff:
    """One fault, from its first job to the first that gets through. Times are monotonic."""

    fault: DiskUnavailable
    disk: Disk
    next_try: float
    delay: float = FIRST_TRY_SECONDS

    @classmethod
    def begin(cls, fault: DiskUnavailable, now: float) -> DiskBackoff:
        return cls(fault, Disk.at(fault.path), now + FIRST_TRY_SECONDS)

    def is_due(self, now: float) -> bool:
        """Whether a job may try. What no probe shows (a quota) is tried ever more rarely."""
        return now >= self.next_try or is_better(self.disk, Disk.at(self.fault.path))

    def again(self, now: float) -> None:
        """The try failed in the same way."""
        self.disk = Disk.at(self.fault.path)
        self.delay = min(2 * self.delay, LAST_TRY_SECONDS)
        self.next_try = now + self.delay
