"""Originals of a folder that no row names, after a ledger was lost: rows from their place and hash.

Their outputs were deleted, moved or replaced. Nothing but their hash identifies them, except that
of an older original, which its path has.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator

from lensd.jobs.archived import hash_and_close
from lensd.store.archive import Archive
from lensd.store.identity import Identity
from lensd.store.ledger import Ledger, Outcome
from lensd.store.paths import VERSIONS
from lensd.watcher.folder import Folder
from lensd.watcher.own_output import read_marks


def find_unclaimed(folder: Folder, ledger: Ledger, archive: Archive) -> Iterator[tuple[str, str]]:
    """(archived path, path) of originals that no row has.

    Only of paths that are free: else the file there is not an output of it.
    """
    for archived, path in archive.originals.listed(folder.name):
        free = not os.path.lexists(f"{folder.root}/{path}")
        if free and not ledger.originals.at(archived):
            yield archived, path


def hash_unclaimed(
    folder: Folder, ledger: Ledger, archive: Archive, archived: str, path: str
) -> None:
    """Record one of them. Raises FileError, OSError."""
    sha256 = hash_and_close(archive.originals.open(archived))
    _record(ledger, folder, path, archived, sha256)


def record_older(folder: Folder, ledger: Ledger, archive: Archive) -> Iterator[str]:
    """Record the originals that no row has and a newer one has replaced; gives their paths."""
    for sha256 in archive.originals.version_hashes():
        for archived, path in archive.originals.listed(VERSIONS, sha256, folder.name):
            if ledger.originals.at(archived):
                continue
            marked = read_marks(folder.root, path)
            if marked is None or marked.sha256 != sha256:  # else its output is still there
                _record(ledger, folder, path, archived, sha256)
                yield path


def archive_method(archived: os.stat_result) -> str:
    """How an original came to the archive, as far as that shows."""
    return "link" if archived.st_nlink > 1 else "copy"


def _record(ledger: Ledger, folder: Folder, path: str, archived: str, sha256: str) -> None:
    found = os.lstat(archived)
    older = f"/{VERSIONS}/{sha256}/" in archived
    ledger.files.record(
        secrets.token_hex(8), folder.root, folder.name, path, Identity.of(found),
        outcome=Outcome.REPLACED if older else Outcome.COMPRESSED, sha256_in=sha256,
        bytes_in=found.st_size, bytes_out=None if older else 0, archive_path=archived,
        archive_method=archive_method(found), emitted=1, published=found.st_ctime_ns / 1e9,
    )  # fmt: skip
