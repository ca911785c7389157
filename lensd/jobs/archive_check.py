"""Is the archive the one that it was? An unmounted disk leaves an empty folder under its name.

Originals that are put in there would be hidden by the next mount, and fill another disk.
"""

from __future__ import annotations

import os

from lensd.errors import StorageError
from lensd.store.archive import Archive
from lensd.store.ledger import Ledger
from lensd.store.ledger.notes import ArchiveIdentity
from lensd.store.ledger.roots import RootIdentity
from lensd.watcher import root_identity


def require_archive(archive: Archive, ledger: Ledger) -> None:
    """Remember what a sound archive is. Raises StorageError for one that is away."""
    try:
        found = root_identity.probe(archive.root).identity
    except OSError as error:
        raise _away(archive, error.strerror or str(error)) from None
    known = _known(archive, ledger)
    problem = root_identity.decide(known, found, lambda: _is_familiar(ledger))
    if problem is not None:
        raise _away(archive, f"its disk is {problem.reason.replace('_', ' ')}")
    if known != found:
        ledger.state.archive.set(ArchiveIdentity(archive.root, *found))


def _known(archive: Archive, ledger: Ledger) -> RootIdentity | None:
    last = ledger.state.archive.get()
    return last.folder if last is not None and last.path == archive.root else None


def _is_familiar(ledger: Ledger) -> bool:
    """Whether the originals that came last are in it: it was moved to another disk."""
    kept = ledger.originals.newest(8)
    return any(os.path.lexists(e.archive_path) for e in kept if e.archive_path)


def _away(archive: Archive, why: str) -> StorageError:
    return StorageError(
        f"the archive {archive.root} is away ({why}): mount it again. If it was moved for good, "
        "move the originals along (cp -a), or correct archive.path",
        archive.root,
    )
