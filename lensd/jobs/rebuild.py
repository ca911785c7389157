"""Rebuilds the rows of a folder that the ledger has never seen: an earlier ledger may be lost.

An output names its original in its marks, and the archive's layout says where the original is. Its
size must be that of the marks; to hash all originals would take hours, and a restore compares the
hash anyway. Only originals that no output names are hashed, since nothing else identifies them: a
few at once, the others while the daemon has no job.
"""

from __future__ import annotations

import math
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from lensd.errors import FileError
from lensd.logs.events import DaemonRebuilt
from lensd.store.archive import Archive
from lensd.store.fs import identity_at, is_temporary, open_regular
from lensd.store.hashing import sha256_of
from lensd.store.identity import Identity
from lensd.store.ledger import Columns, Ledger, Outcome
from lensd.store.paths import VERSIONS
from lensd.store.walk import walk
from lensd.watcher.folder import Folder, Log
from lensd.watcher.own_output import Marked, marks_at, read_marks
from lensd.watcher.scan import BATCH, in_batches


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
    *,
    hash_bytes: float = math.inf,
) -> Rebuilt:
    """Write the rows of a folder that the ledger does not know; without effect for others.

    `progress` is called again and again meanwhile. Of the originals that no output names it hashes
    `hash_bytes`; `RebuildLater` has the others. Raises OSError when the folder is not there.
    """
    rebuilt = Rebuilt()
    if ledger.roots.knows(folder.root):
        return rebuilt
    # First: the newest row of a path has to be that of the file which lies there.
    for archived, path, sha256 in _find_older_originals(folder, ledger, archive):
        progress()
        _record_original(ledger, folder, path, archived, sha256)
        rebuilt.originals += 1
    moved: set[int] = set()
    for batch in in_batches(_find_outputs(folder, archive, moved, progress)):
        with ledger.together():  # a crash leaves whole batches; the next start finds the others
            _record_outputs(ledger, folder, batch, rebuilt)
    left, is_complete = hash_bytes, True
    for archived, path in _find_unclaimed_originals(folder, ledger, archive):
        progress()
        size = os.lstat(archived).st_size
        if size > left and size not in moved:
            is_complete = False
            continue
        left -= size
        _hash_original(folder, ledger, archive, archived, path)
        rebuilt.originals += 1
    if not is_complete:
        with ledger.together():  # another thread may end the rest of another folder
            waiting = {folder.root, *(ledger.state.rebuilding.get() or ())}
            ledger.state.rebuilding.set(tuple(sorted(waiting)))
    if rebuilt.files or rebuilt.originals or ledger.damaged is not None:
        _report(folder, rebuilt, log, _message(ledger.damaged))
    return rebuilt


class RebuildLater:
    """Hashes the originals that `rebuild` left, one by one, in the job thread between two jobs."""

    def __init__(
        self,
        folders: Sequence[Folder],
        ledger: Ledger,
        archive: Archive,
        log: Log,
        must_wait: Callable[[str], bool] = lambda _: False,
    ) -> None:
        """`must_wait(root)`: its disk is away, so that every path in it seems to be free."""
        self._folders = {folder.root: folder for folder in folders}
        self._ledger = ledger
        self._archive = archive
        self._log = log
        self._must_wait = must_wait
        self._left: dict[str, Iterator[tuple[str, str]]] = {}
        self._hashed: dict[str, int] = {}
        self._unreadable: set[str] = set()  # roots whose note stays for the next start

    def roots(self) -> list[str]:
        """The watched folders that have originals to hash."""
        noted = self._ledger.state.rebuilding.get() or ()
        return [root for root in noted if root in self._folders and root not in self._unreadable]

    def run_some(self, root: str, stop: Callable[[], bool]) -> None:
        """Until all of a root is done, or `stop()` is true before an original.

        Raises StorageError.
        """
        with suppress(OSError):  # the archive is away
            self._run_folder(self._folders[root], stop)

    def _run_folder(self, folder: Folder, stop: Callable[[], bool]) -> None:
        root, ledger, archive = folder.root, self._ledger, self._archive
        unclaimed = _find_unclaimed_originals(folder, ledger, archive)
        left = self._left.setdefault(root, unclaimed)
        is_readable = True
        while not (stop() or self._must_wait(root)):
            found = next(left, None)
            if found is None:
                self._end(folder, is_complete=is_readable)
                return
            try:
                _hash_original(folder, ledger, archive, *found)
            except (FileError, OSError):
                is_readable = False
            else:
                self._hashed[root] = self._hashed.get(root, 0) + 1

    def _end(self, folder: Folder, *, is_complete: bool) -> None:
        del self._left[folder.root]
        if not is_complete:
            self._unreadable.add(folder.root)
            return
        with self._ledger.together():
            waiting = self._ledger.state.rebuilding.get() or ()
            self._ledger.state.rebuilding.set(tuple(r for r in waiting if r != folder.root))
        _report(folder, Rebuilt(originals=self._hashed.get(folder.root, 0)), self._log, _LATER)


def _report(folder: Folder, rebuilt: Rebuilt, log: Log, message: str) -> None:
    log(
        DaemonRebuilt(
            watch=folder.name,
            files=rebuilt.files,
            bytes=rebuilt.bytes,
            originals=rebuilt.originals,
            message=message,
        )
    )


def _find_outputs(
    folder: Folder, archive: Archive, moved: set[int], progress: Callable[[], None]
) -> Iterator[tuple[str, Marked, str]]:
    """(path, marks, archived original) of the files that are outputs and have an original.

    `moved` gets the sizes of the originals that other outputs name: these have been renamed.
    """
    has_older = bool(archive.originals.version_hashes())
    for at in walk(
        folder.root,
        recursive=folder.recursive,
        wanted=lambda path, e: not is_temporary(e.name) and folder.selects(path),
    ):
        for number, name in enumerate(at.names):
            if number % BATCH == 0:
                progress()
            path = at.path + name
            # A new installation has no originals, so it reads no headers.
            if not has_older and archive.originals.find(folder.name, path) is None:
                continue
            marked = marks_at(at.fd, name)
            if marked is not None:
                original = _find_original(archive, folder, path, marked, has_older=has_older)
                if original is not None:
                    yield path, marked, original
                elif marked.bytes_in is not None:
                    moved.add(marked.bytes_in)


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


def _find_original(
    archive: Archive, folder: Folder, path: str, marked: Marked, *, has_older: bool
) -> str | None:
    """The archived original that the marks name; None if the archive has none of this path."""
    aside = archive.originals.find_older(marked.sha256, folder.name, path) if has_older else None
    if aside is not None:
        return aside
    newest = archive.originals.find(folder.name, path)
    if newest is None or os.lstat(newest).st_size != marked.bytes_in:
        return None
    if archive.originals.folds_case:  # it may be that of a file whose name differs in case
        return archive.originals.locate(folder.name, path, marked.sha256)
    return newest


def _record_outputs(
    ledger: Ledger, folder: Folder, found: list[tuple[str, Marked, str]], rebuilt: Rebuilt
) -> None:
    """Record the outputs that have no row yet."""
    unknown = {
        p for p, _ in ledger.files.unknown(folder.root, [(p, m.identity) for p, m, _ in found])
    }
    rows = [_row(*output) for output in found if output[0] in unknown]
    ledger.files.record_all(folder.root, folder.name, rows)
    rebuilt.files += len(rows)
    rebuilt.bytes += sum(columns["bytes_out"] or 0 for _, _, columns in rows)


def _row(path: str, marked: Marked, original: str) -> tuple[str, Identity, Columns]:
    archived = os.lstat(original)
    columns = Columns(
        outcome=Outcome.COMPRESSED, staged=marked.identity, sha256_in=marked.sha256,
        bytes_in=marked.bytes_in, bytes_out=marked.identity.size, archive_path=original,
        archive_method=_archive_method(archived), emitted=1,
        published=marked.identity.ctime_ns / 1e9,
    )  # fmt: skip
    return path, Identity.of(archived), columns


def _record_original(ledger: Ledger, folder: Folder, path: str, archived: str, sha256: str) -> None:
    """Record an original whose output was deleted or moved, or an older original of a path."""
    found = os.lstat(archived)
    older = f"/{VERSIONS}/{sha256}/" in archived
    ledger.files.record(
        secrets.token_hex(8), folder.root, folder.name, path, Identity.of(found),
        outcome=Outcome.REPLACED if older else Outcome.COMPRESSED, sha256_in=sha256,
        bytes_in=found.st_size, bytes_out=None if older else 0, archive_path=archived,
        archive_method=_archive_method(found), emitted=1, published=found.st_ctime_ns / 1e9,
    )  # fmt: skip


def _archive_method(archived: os.stat_result) -> str:
    return "link" if archived.st_nlink > 1 else "copy"


def _find_unclaimed_originals(
    folder: Folder, ledger: Ledger, archive: Archive
) -> Iterator[tuple[str, str]]:
    """(archived path, path) of originals that no row has.

    Only of paths that are free: else the file there is not an output of it.
    """
    for archived, path in archive.originals.listed(folder.name):
        free = not os.path.lexists(os.path.join(folder.root, path))
        if free and not ledger.originals.at(archived):
            yield archived, path


def _hash_original(
    folder: Folder, ledger: Ledger, archive: Archive, archived: str, path: str
) -> None:
    sha256 = _hash_and_close(archive.originals.open(archived))
    _record_original(ledger, folder, path, archived, sha256)


def _find_older_originals(
    folder: Folder, ledger: Ledger, archive: Archive
) -> Iterator[tuple[str, str, str]]:
    """(archived path, path, sha256) of originals that no row has and a newer one has replaced."""
    for sha256 in archive.originals.version_hashes():
        for archived, path in archive.originals.listed(VERSIONS, sha256, folder.name):
            if not ledger.originals.at(archived):
                marked = read_marks(folder.root, path)
                if marked is None or marked.sha256 != sha256:  # else its output is still there
                    yield archived, path, sha256


def _hash_and_close(fd: int) -> str:
    try:
        return sha256_of(fd, drop_cache=True)
    finally:
        os.close(fd)


_LATER = (
    "the ledger is complete again: lensd has hashed the originals whose outputs were deleted or "
    "moved"
)


def _message(damaged: str | None) -> str:
    why = "the ledger did not know this folder"
    if damaged is not None:
        why = f"the ledger was damaged and is now {damaged}"
    return (
        f"{why}; lensd recognized outputs by their marks and originals by their place in the "
        "archive. Files without marks come under `existing`"
    )
