"""When to try again after a disk was full, read-only or away, and which jobs wait until then."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lensd.errors import DiskUnavailable, StorageError
from lensd.store.deadline import within
from lensd.store.paths import is_below

PROBE_SECONDS = 5.0
LOOK_SECONDS = 2.0
FIRST_TRY_SECONDS = 60.0
LAST_TRY_SECONDS = 900.0
# Other programs change the free space by less than this all the time.
FREED_BYTES = 1 << 20
FREED_INODES = 16


@dataclass(frozen=True, slots=True)
class Disk:
    """The state of a disk; `free` is in bytes, None for one that is not there."""

    free: int | None
    writable: bool
    device: int | None = None
    inodes: int = sys.maxsize  # how many more files it takes

    @classmethod
    def at(cls, path: str) -> Disk:
        """Of the disk that a path lies on. Raises nothing: an unreadable disk counts as away."""
        try:
            found, device = os.statvfs(path), os.stat(path).st_dev
        except OSError:
            return cls(None, writable=False)
        writable = not found.f_flag & os.ST_RDONLY
        inodes = found.f_favail if found.f_files else sys.maxsize  # 0: it has no such limit
        return cls(found.f_bavail * found.f_frsize, writable, device, inodes)


AWAY = Disk(None, writable=False)


def is_better(then: Disk, now: Disk) -> bool:
    """Whether a try is worthwhile: the disk is back, writable again, or has more room."""
    if now.free is None:
        return False
    if then.free is None or now.device != then.device or (now.writable and not then.writable):
        return True
    has_room = now.free >= then.free + FREED_BYTES or now.inodes >= then.inodes + FREED_INODES
    return now.writable and has_room


@dataclass(frozen=True, slots=True)
class Disks:
    """Which roots need which disk: all of them that of the state folder; `archiving` the archive's.

    `roots`: each watched folder and its device, where that is known. `answers(folder)`: whether the
    filesystem of a watched folder or of the archive does; else a look at it could hang.
    """

    state: str
    archive: str
    roots: Mapping[str, int | None]
    archiving: frozenset[str]
    answers: Callable[[str], bool]

    def look(self, path: str) -> Disk:
        """The disk of a path; one that does not answer counts as away."""
        above = [folder for folder in (*self.roots, self.archive) if is_below(path, folder)]
        if not all(map(self.answers, above)):
            return AWAY
        try:  # it may hang only now
            return within(LOOK_SECONDS, lambda: Disk.at(path))
        except StorageError:
            return AWAY

    def place_of(self, path: str) -> str:
        """What shows the state of a path's disk: its folder, since a temporary is soon deleted.

        The folders themselves are missing when their disk is away.
        """
        is_given = path in (self.state, self.archive) or path in self.roots
        return path if is_given else os.path.dirname(path)

    def roots_waiting_for(self, path: str) -> frozenset[str]:
        """The roots whose jobs need the disk of a path; all of them if the disk is unknown."""
        device = self.look(self.place_of(path)).device

        def is_on_it(folder: str) -> bool:
            return is_below(path, folder) or (
                device is not None and device == self.look(folder).device
            )

        if is_on_it(self.state):
            return frozenset(self.roots)
        waiting = {
            root
            for root, of_root in self.roots.items()
            if is_below(path, root) or (device is not None and device == of_root)
        }
        if is_on_it(self.archive):
            waiting.update(self.archiving)
        return frozenset(waiting or self.roots)


@dataclass(slots=True)
class DiskBackoff:
    """One fault, from the first job that met it to the next that succeeds. Times are monotonic.

    The jobs in `roots` wait. `of_pass`: the daily pass met the fault, and so it has to succeed.
    """

    fault: DiskUnavailable
    roots: frozenset[str]
    place: str
    disk: Disk
    next_try: float
    since: float
    of_pass: bool = False
    delay: float = FIRST_TRY_SECONDS

    @classmethod
    def begin(
        cls, fault: DiskUnavailable, disks: Disks, now: float, *, of_pass: bool = False
    ) -> DiskBackoff:
        roots, place = disks.roots_waiting_for(fault.path), disks.place_of(fault.path)
        return cls(fault, roots, place, disks.look(place), now + FIRST_TRY_SECONDS, now, of_pass)

    def is_due(self, disk: Disk, now: float) -> bool:
        """Whether a job may try. Where no probe shows the fault (a quota) the pauses grow."""
        return now >= self.next_try or is_better(self.disk, disk)

    def extend(self, disk: Disk, now: float) -> None:
        """A try failed in the same way: wait longer for the next one."""
        self.disk = disk
        self.delay = min(2 * self.delay, LAST_TRY_SECONDS)
        self.next_try = now + self.delay
