"""Detects an archive whose disk is not mounted: an empty folder has its name then.

Originals that are put in there would be hidden by the next mount, and fill another disk.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from lensd.errors import DegradedReason, DiskUnavailable
from lensd.store.archive import Archive
from lensd.store.ledger import Ledger
from lensd.store.ledger.notes import ArchiveIdentity
from lensd.store.ledger.roots import RootIdentity
from lensd.watcher import root_identity


@contextmanager
def hold_archive(archive: Archive, ledger: Ledger) -> Iterator[None]:
    """Keep the archive open for a job or a request, if it is the folder that it was.

    Raises DiskUnavailable for one that is away.
    """
    with archive.hold():
        _require_known(archive, ledger)
        archive.open_root.require_there()
        yield


def _require_known(archive: Archive, ledger: Ledger) -> None:
    """Compare the archive with what the ledger remembers of it."""
    try:
        found = root_identity.probe(archive.root).identity
    except OSError as error:
        raise _away(archive, error.strerror or str(error)) from None
    known = _known(archive, ledger)
    problem = root_identity.decide(known, found, lambda: _is_familiar(ledger))
    if problem is not None:
        raise _away(archive, f"its disk is {problem.reason.replace('_', ' ')}")
    if known != found and not ledger.readonly:
        ledger.state.archive.set(ArchiveIdentity(archive.root, *found))


def _known(archive: Archive, ledger: Ledger) -> RootIdentity | None:
    last = ledger.state.archive.get()
    return last.folder if last is not None and last.path == archive.root else None


def _is_familiar(ledger: Ledger) -> bool:
    """Whether the originals that came last are in it: it was moved to another disk."""
    kept = ledger.originals.newest(8)
    return any(os.path.lexists(e.archive_path) for e in kept if e.archive_path)


def _away(archive: Archive, why: str) -> DiskUnavailable:
    return DiskUnavailable(
        DegradedReason.IO_ERROR,
        archive.root,
        f"the archive {archive.root} is away ({why}): mount it again. If it was moved for good, "
        "move the originals along (cp -a), or correct archive.path",
    )
