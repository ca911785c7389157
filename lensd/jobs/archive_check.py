"""Detects an archive whose disk is not mounted: an empty folder has its name then.

Originals that are put in there would be hidden by the next mount, and fill another disk.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from lensd.errors import DegradedReason, DiskUnavailable, Reason, Skipped
from lensd.store.archive import Archive
from lensd.store.ledger import Ledger
from lensd.store.ledger.notes import ArchiveIdentity
from lensd.store.ledger.roots import RootIdentity
from lensd.store.mounts import read_mounts
from lensd.store.overlaps import lies_in
from lensd.watcher import root_identity
from lensd.watcher.root_identity import Problem


@contextmanager
def hold_archive(archive: Archive, ledger: Ledger, folder_fd: int | None = None) -> Iterator[None]:
    """Keep the archive open for a job or a request, if it is the folder that it was.

    Raises DiskUnavailable for one that is away, Skipped(`in_archive`) if the open folder of the
    job's file lies in it.
    """
    with archive.hold():
        require_archive(archive, ledger)
        archive.open_root.require_there()
        if folder_fd is not None:
            _require_apart(folder_fd, archive)
        yield


def _require_apart(folder_fd: int, archive: Archive) -> None:
    if os.fstat(folder_fd).st_dev != archive.open_root.inode[0]:
        return
    if lies_in(folder_fd, archive.root, read_mounts()):
        raise Skipped(
            Reason.IN_ARCHIVE,
            f"the file is an original in the archive {archive.root}, which a mount shows in the "
            "watched folder: unmount it there",
        )


def require_archive(archive: Archive, ledger: Ledger) -> None:
    """Remember what a sound archive is. Raises DiskUnavailable for one that is away."""
    try:
        found = root_identity.probe(archive.root).identity
    except OSError as error:
        raise _away(archive, error.strerror or str(error)) from None
    known = _known(archive.root, ledger)
    problem = root_identity.decide(known, found, lambda: _is_familiar(ledger))
    if problem is not None and not _is_first_mount(problem, ledger):
        raise _away(archive, f"its disk is {problem.reason.replace('_', ' ')}")
    if known != found and not ledger.readonly:
        ledger.state.archive.set(ArchiveIdentity(archive.root, *found))


def has_originals(root: str, ledger: Ledger) -> bool:
    """Whether lensd has put originals there: if it is missing, it is away, and not new."""
    return _known(root, ledger) is not None and not ledger.originals.is_empty()


def _known(root: str, ledger: Ledger) -> RootIdentity | None:
    last = ledger.state.archive.get()
    return last.folder if last is not None and last.path == root else None


def _is_familiar(ledger: Ledger) -> bool:
    """Whether the originals that came last are in it: it was moved to another disk."""
    kept = ledger.originals.newest(8)
    return any(os.path.lexists(e.archive_path) for e in kept if e.archive_path)


def _is_first_mount(problem: Problem, ledger: Ledger) -> bool:
    """Whether a disk is mounted over an archive that has no original yet.

    lensd was started before the disk was mounted, and knows the folder below it.
    """
    return problem.reason == DegradedReason.MOUNTED_OVER and ledger.originals.is_empty()


def _away(archive: Archive, why: str) -> DiskUnavailable:
    return DiskUnavailable(
        DegradedReason.IO_ERROR,
        archive.root,
        f"the archive {archive.root} is away ({why}): mount it again. If it was moved for good, "
        "move the originals along (cp -a), or correct archive.path",
    )
