"""Is a watched folder the one it was? One probe, one pure decision.

A disk that is not mounted leaves an empty folder under its name, and one that is mounted over hides
what lay there: neither may be taken for a folder whose files were deleted.
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
    """What a probe saw."""

    identity: RootIdentity
    device: tuple[int, int] | None = None  # as inotify names it; None: unknown
    is_remote: bool = False


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a folder is degraded."""

    reason: DegradedReason
    message: str


def probe(path: str) -> Found:
    """Look at a folder, without opening anything that an unmount would wait for.

    Raises OSError when it is not there or may not be entered.
    """
    fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        stat, mount = os.fstat(fd), mount_of_folder(fd)
    finally:
        os.close(fd)
    with os.scandir(path):  # a right to read may go as well
        pass
    return Found(
        RootIdentity(stat.st_dev & _LARGEST, stat.st_ino & _LARGEST, mount and mount.name),
        mount and mount.device,
        mount is None or mount.is_remote,
    )


def decide(
    known: RootIdentity | None, found: RootIdentity, is_familiar: Callable[[], bool]
) -> Problem | None:
    """Whether the folder that is there now is the one that is meant. None: it is.

    The same folder, on whatever mount, is. So is another one on the same mount (put there by a
    person, or a disk that got other numbers with a remount), and one in which lensd finds its files
    again (a new disk); `is_familiar` is asked only then.
    """
    if known is None or found[:2] == known[:2]:
        return None
    if known.mount is None or found.mount == known.mount or is_familiar():
        return None
    return _unmounted() if _is_above(found.mount, known.mount) else _mounted_over()


def unreachable(error: OSError) -> Problem:
    return Problem(
        DegradedReason.UNREACHABLE,
        f"the folder cannot be read: {error.strerror}. Mount it again or give lensd access; its "
        "jobs wait, and it is looked for every few seconds",
    )


def _unmounted() -> Problem:
    return Problem(
        DegradedReason.UNMOUNTED,
        "the folder's disk is not mounted; what lies there now is not looked at. Mount it; its "
        "jobs wait. If the files were moved here for good, keep their dates (cp -a, rsync -a) and "
        "lensd knows them again",
    )


def _mounted_over() -> Problem:
    return Problem(
        DegradedReason.MOUNTED_OVER,
        "another disk is mounted over the folder; what lies there now is not looked at. Unmount "
        "it; the folder's jobs wait. If the files were moved here for good, keep their dates "
        "(cp -a, rsync -a) and lensd knows them again",
    )


def _is_above(found: str | None, known: str) -> bool:
    """Whether the mount found is one that the known mount lay on."""
    if found is None:
        return True
    above, below = point_of(found), point_of(known)
    if above == below:
        return found < known  # fewer mounts on the same point
    return is_below(below, above)
