"""A folder that the ledger has never seen may have been lensd's before: the ledger was lost.

What is in the folders and in the archive stands for itself: an output names its original in its
marks, and the archive's layout says where that is. Originals are not hashed here, which would take
hours: their size has to be that of the marks, and whoever restores compares the hash. Only those
that no output names are, since nothing else tells what they are.
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
    """What came back to the ledger of one folder; `bytes` are those of the outputs."""

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
    """Give a folder that the ledger does not know its rows back; without effect for others.

    `progress` is called time and again meanwhile. Raises OSError when the folder is not there: its
    turn comes when it is.
    """
    rebuilt = Rebuilt()
    if ledger.roots.knows(folder.root):
        return rebuilt
    has_older = bool(archive.version_hashes())
    found = scan(folder.root, recursive=folder.recursive, selects=folder.selects)
    for batch in in_batches(found):
        progress()
        with ledger.together():  # after a crash what has no row yet is found again
            for path, _ in ledger.files.unknown(folder.root, batch):
                # No header is read in vain: a new installation has no original of any file.
                if has_older or os.path.lexists(archive.path_for(folder.name, path)):
                    _rebuild_output(folder, ledger, archive, path, rebuilt)
    for place, path, sha256 in _unnamed(folder, ledger, archive):
        progress()
        _record_original(ledger, folder, path, place, sha256)
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
    """The row of a file, if its marks say that it is an output and the archive has its original."""
    marked = read_marks(folder.root, path)
    original = None if marked is None else _original(archive, folder, path, marked)
    if marked is not None and original is not None:
        _record(ledger, folder, path, marked, original)
        rebuilt.files += 1
        rebuilt.bytes += marked.identity.size


def is_archived(folder_fd: int, name: str, archive: Archive, watch: str, within: str) -> bool:
    """Whether a temporary is an archived original, by inode or by hash, of a file in its folder.

    A crash after an exchange leaves one, and the ledger that knew of it may be lost.
    """
    there = identity_at(folder_fd, name)
    if there is None:
        return False
    ours: str | None = None
    for place, _ in _files(os.path.join(archive.root, watch, within)):
        found = Identity.of(os.lstat(place))
        if found.same_inode(there):
            return True
        if found.size == there.size:
            ours = ours or _hash(open_regular(folder_fd, name))
            if _hash(archive.open_original(place)) == ours:
                return identity_at(folder_fd, name) == there
    return False


def _original(archive: Archive, folder: Folder, path: str, marked: Marked) -> str | None:
    """Where the archive has the original that the marks name, None if nowhere under this path."""
    aside = archive.version_path(marked.sha256, folder.name, path)
    if os.path.isfile(aside):
        return aside
    newest = archive.find(folder.name, path)
    if newest is None or os.lstat(newest).st_size != marked.bytes_in:
        return None
    return newest


def _record(ledger: Ledger, folder: Folder, path: str, marked: Marked, original: str) -> None:
    ledger.files.record(
        secrets.token_hex(8), folder.root, folder.name, path, Identity.of(os.lstat(original)),
        outcome=Outcome.COMPRESSED, staged=marked.identity, sha256_in=marked.sha256,
        bytes_in=marked.bytes_in, bytes_out=marked.identity.size, archive_path=original,
        archive_method=_method(original), emitted=1, published=marked.identity.ctime_ns / 1e9,
    )  # fmt: skip


def _record_original(ledger: Ledger, folder: Folder, path: str, place: str, sha256: str) -> None:
    """An original whose output was deleted or moved, or an older one of a path."""
    found = os.lstat(place)
    older = f"/{VERSIONS}/{sha256}/" in place
    ledger.files.record(
        secrets.token_hex(8), folder.root, folder.name, path, Identity.of(found),
        outcome=Outcome.REPLACED if older else Outcome.COMPRESSED, sha256_in=sha256,
        bytes_in=found.st_size, bytes_out=None if older else 0, archive_path=place,
        archive_method=_method(place), emitted=1, published=found.st_ctime_ns / 1e9,
    )  # fmt: skip


def _method(original: str) -> str:
    return "link" if os.lstat(original).st_nlink > 1 else "copy"


def _unnamed(folder: Folder, ledger: Ledger, archive: Archive) -> Iterator[tuple[str, str, str]]:
    """(place, path, sha256) of originals that no row has and whose name is free in the folder."""
    for place, path in _files(os.path.join(archive.root, folder.name)):
        free = not os.path.lexists(os.path.join(folder.root, path))
        if free and not ledger.originals.at(place):
            fd = archive.open_original(place)
            try:
                yield place, path, sha256_of(fd, drop_cache=True)
            finally:
                os.close(fd)
    for sha256 in archive.version_hashes():
        for place, path in _files(archive.version_path(sha256, folder.name, "x")[:-2]):
            if not ledger.originals.at(place):
                yield place, path, sha256


def _files(top: str) -> Iterator[tuple[str, str]]:
    """(path, path below `top`) of the regular files below a folder, if there is one."""
    for at, _, names in os.walk(top):
        for name in sorted(names):
            place = os.path.join(at, name)
            if os.path.isfile(place) and not os.path.islink(place):
                yield place, os.path.relpath(place, top)


def _hash(fd: int) -> str:
    try:
        return sha256_of(fd, drop_cache=True)
    finally:
        os.close(fd)


def _message(damaged: str | None) -> str:
    why = "there was no ledger of this folder"
    if damaged is not None:
        why = f"the ledger was damaged and is now {damaged}"
    return (
        f"{why}; outputs and originals were told by their marks and by their place in the "
        "archive. Files without marks come under `existing`"
    )
