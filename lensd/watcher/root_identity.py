"""Whether a watched folder is the folder that it was: one probe, and one pure decision.

Where a disk is not mounted there is an empty folder, and a disk that is mounted over a folder hides
its files. In neither case were the files deleted.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from lensd.errors import DegradedReason
from lensd.store.ledger.roots import RootIdentity
from lensd.store.mounts import mount_of_folder, point_of
from lensd.store.paths import is_below

_LARGEST = 2**63 - 1  # what the ledger can store; some FUSE filesystems have larger inode numbers


class Found(NamedTuple):
    """What a probe found."""

    identity: RootIdentity
    device: tuple[int, int] | None = None  # as inotify names it; None: unknown
    is_remote: bool = False


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a folder is degraded."""

    reason: DegradedReason
    message: str


def probe(path: str) -> Found:
    """Look at a folder. Leaves nothing open, which would prevent an unmount.

    Raises OSError when it is not there or lensd may not read it.
    """
    fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        stat, mount = os.fstat(fd), mount_of_folder(fd)
    finally:
        os.close(fd)
    with os.scandir(path):  # the right to read it may be gone
        pass
    return Found(
        RootIdentity(stat.st_dev & _LARGEST, stat.st_ino & _LARGEST, mount and mount.name),
        mount and mount.device,
        mount is None or mount.is_remote,
    )


def decide(
    known: RootIdentity | None, found: RootIdentity, is_familiar: Callable[[], bool]
) -> Problem | None:
    """Why the folder that is there now is not the watched one; None: it is.

    It is if it has the same device and inode, on whatever mount; or if it lies on the same mount (a
    person replaced it, or a remount gave its disk another number); or if lensd finds its files in
    it (it was moved to a new disk), which is asked last.
    """
    if known is None or found[:2] == known[:2]:
        return None
    if known.mount is None or found.mount == known.mount or is_familiar():
        return None
    return _unmounted() if _is_above(found.mount, known.mount) else _mounted_over()


def unreachable(error: OSError) -> Problem:
    return Problem(
        DegradedReason.UNREACHABLE,
        f"lensd cannot read the folder: {error.strerror}. Mount it, or give lensd access; its jobs "
        "wait, and lensd looks for it every few seconds",
    )


def _unmounted() -> Problem:
    return Problem(
        DegradedReason.UNMOUNTED,
        "the folder's disk is not mounted, and lensd ignores the files that lie there now. Mount "
        "it; its jobs wait. If you moved the files here for good, keep their dates (cp -a, "
        "rsync -a), so that lensd recognizes them",
    )


def _mounted_over() -> Problem:
    return Problem(
        DegradedReason.MOUNTED_OVER,
        "another disk is mounted over the folder, and lensd ignores the files that lie there now. "
        "Unmount it; the folder's jobs wait. If you moved the files here for good, keep their "
        "dates (cp -a, rsync -a), so that lensd recognizes them",
    )


def _is_above(found: str | None, known: str) -> bool:
    """Whether the mount found is one that the known mount lay on."""
    if found is None:
        return True
    above, below = point_of(found), point_of(known)
    if above == below:
        return found < known  # fewer mounts on the same point
    return is_below(below, above)
