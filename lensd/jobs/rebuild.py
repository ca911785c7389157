"""Rebuilds the rows of a folder that the ledger has never seen: an earlier ledger may be lost.

An output names its original in its marks, and the archive's layout says where the original is. Its
size must be that of the marks; to hash all originals would take hours, and a restore compares the
hash anyway. Only originals that no output names are hashed, since nothing else identifies them.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from lensd.logs.events import DaemonRebuilt
from lensd.store.archive import Archive
from lensd.store.fs import identity_at, open_regular
from lensd.store.hashing import sha256_of
from lensd.store.identity import Identity
from lensd.store.ledger import Ledger, Outcome
from lensd.store.paths import VERSIONS
from lensd.watcher.folder import Folder, Log
from lensd.watcher.own_output import Marked, read_marks
from lensd.watcher.scan import in_batches, scan


@dataclass(slots=True)
class Rebuilt:
    """What the ledger has again of one folder; `bytes` are those of the outputs."""

    files: int = 0
    bytes: int = 0
    originals: int = 0


def rebuild(
    folder: Folder,
    ledger: Ledger,
    archive: Archive,
    log: Log,
    progress: Callable[[], None] = lambda: None,
) -> Rebuilt:
    """Write the rows of a folder that the ledger does not know; without effect for others.

    `progress` is called again and again meanwhile. Raises OSError when the folder is not there.
    """
    rebuilt = Rebuilt()
    if ledger.roots.knows(folder.root):
        return rebuilt
    has_older = bool(archive.originals.version_hashes())
    found = scan(folder.root, recursive=folder.recursive, selects=folder.selects)
    for batch in in_batches(found):
        progress()
        with ledger.together():  # a crash leaves whole batches; the next start finds the others
            for path, _ in ledger.files.unknown(folder.root, batch):
                # A new installation has no originals, so it reads no headers.
                if has_older or archive.originals.find(folder.name, path):
                    _rebuild_output(folder, ledger, archive, path, rebuilt)
    for archived, path, sha256 in _find_unclaimed_originals(folder, ledger, archive):
        progress()
        _record_original(ledger, folder, path, archived, sha256)
        rebuilt.originals += 1
    if rebuilt.files or rebuilt.originals or ledger.damaged is not None:
        log(
            DaemonRebuilt(
                watch=folder.name,
                files=rebuilt.files,
                bytes=rebuilt.bytes,
                originals=rebuilt.originals,
                message=_message(ledger.damaged),
            )
        )
    return rebuilt


def _rebuild_output(
    folder: Folder, ledger: Ledger, archive: Archive, path: str, rebuilt: Rebuilt
) -> None:
    """Record a file if its marks say that it is an output, and the archive has its original."""
    marked = read_marks(folder.root, path)
    original = None if marked is None else _find_original(archive, folder, path, marked)
    if marked is not None and original is not None:
        _record_output(ledger, folder, path, marked, original)
        rebuilt.files += 1
        rebuilt.bytes += marked.identity.size


def is_archived(folder_fd: int, name: str, archive: Archive, watch: str, within: str) -> bool:
    """Whether a temporary is an archived original, by inode or hash, of a file in its folder.

    A crash after an exchange leaves such a temporary; the ledger that knew it may be lost.
    """
    there = identity_at(folder_fd, name)
    if there is None:
        return False
    ours: str | None = None
    for archived, _ in archive.originals.listed(watch, within):
        found = Identity.of(os.lstat(archived))
        if found.same_inode(there):
            return True
        if found.size == there.size:
            ours = ours or _hash_and_close(open_regular(folder_fd, name))
            if _hash_and_close(archive.originals.open(archived)) == ours:
                return identity_at(folder_fd, name) == there
    return False


def _find_original(archive: Archive, folder: Folder, path: str, marked: Marked) -> str | None:
    """The archived original that the marks name; None if the archive has none of this path."""
    aside = archive.originals.find_older(marked.sha256, folder.name, path)
    if aside is not None:
        return aside
    newest = archive.originals.find(folder.name, path)
    if newest is None or os.lstat(newest).st_size != marked.bytes_in:
        return None
    if archive.originals.folds_case:  # it may be that of a file whose name differs in case
        return archive.originals.locate(folder.name, path, marked.sha256)
    return newest


def _record_output(
    ledger: Ledger, folder: Folder, path: str, marked: Marked, original: str
) -> None:
    ledger.files.record(
        secrets.token_hex(8), folder.root, folder.name, path, Identity.of(os.lstat(original)),
        outcome=Outcome.COMPRESSED, staged=marked.identity, sha256_in=marked.sha256,
        bytes_in=marked.bytes_in, bytes_out=marked.identity.size, archive_path=original,
        archive_method=_archive_method(original), emitted=1,
        published=marked.identity.ctime_ns / 1e9,
    )  # fmt: skip


def _record_original(ledger: Ledger, folder: Folder, path: str, archived: str, sha256: str) -> None:
    """Record an original whose output was deleted or moved, or an older original of a path."""
    found = os.lstat(archived)
    older = f"/{VERSIONS}/{sha256}/" in archived
    ledger.files.record(
        secrets.token_hex(8), folder.root, folder.name, path, Identity.of(found),
        outcome=Outcome.REPLACED if older else Outcome.COMPRESSED, sha256_in=sha256,
        bytes_in=found.st_size, bytes_out=None if older else 0, archive_path=archived,
        archive_method=_archive_method(archived), emitted=1, published=found.st_ctime_ns / 1e9,
    )  # fmt: skip


def _archive_method(original: str) -> str:
    return "link" if os.lstat(original).st_nlink > 1 else "copy"


def _find_unclaimed_originals(
    folder: Folder, ledger: Ledger, archive: Archive
) -> Iterator[tuple[str, str, str]]:
    """(archived path, path, sha256) of originals that no row has.

    The newest original of a path only if the path is free: else its file is not an output of it.
    """
    for archived, path in archive.originals.listed(folder.name):
        free = not os.path.lexists(os.path.join(folder.root, path))
        if free and not ledger.originals.at(archived):
            fd = archive.originals.open(archived)
            try:
                yield archived, path, sha256_of(fd, drop_cache=True)
            finally:
                os.close(fd)
    for sha256 in archive.originals.version_hashes():
        for archived, path in archive.originals.listed(VERSIONS, sha256, folder.name):
            if not ledger.originals.at(archived):
                yield archived, path, sha256


def _hash_and_close(fd: int) -> str:
    try:
        return sha256_of(fd, drop_cache=True)
    finally:
        os.close(fd)


def _message(damaged: str | None) -> str:
    why = "the ledger did not know this folder"
    if damaged is not None:
        why = f"the ledger was damaged and is now {damaged}"
    return (
        f"{why}; lensd recognized outputs by their marks and originals by their place in the "
        "archive. Files without marks come under `existing`"
    )
