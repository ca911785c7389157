"""Rebuilds the rows of a folder that the ledger has never seen: an earlier ledger may be lost.

An output names its original in its marks, and the archive's layout says where the original is. Its
size must be that of the marks, and the name of the output that of the original; else it is hashed.
To hash all originals would take hours, and a restore compares the hash anyway. Only originals that
no output names are hashed (`unclaimed`): a few at once, the others while the daemon has no job
(`rebuild_later`).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from lensd.errors import FileError
from lensd.jobs.unclaimed import archive_method, find_unclaimed, hash_unclaimed, record_older
from lensd.logs.events import DaemonRebuilt
from lensd.store.archive import Archive
from lensd.store.archive.finding import Found, Mirror
from lensd.store.fs import is_temporary
from lensd.store.identity import Identity
from lensd.store.ledger import Columns, Ledger, Outcome
from lensd.store.walk import walk
from lensd.watcher.folder import Folder, Log
from lensd.watcher.one_file import record_each, report_bug
from lensd.watcher.own_output import Marked, marks_at, name_in_marks
from lensd.watcher.scan import BATCH, in_batches

Progress = Callable[[], None]
# In one commit. Each commit writes most pages of the indexes by hash and by inode, so that few
# large ones write less: 780 MB for 100,000 files, and 940 MB with a quarter of the rows.
_ROWS = 2000


@dataclass(slots=True)
class Rebuilt:
    """What the ledger has again of one folder; `bytes` are those of the outputs.

    `moved`: the sizes of the originals that outputs elsewhere name.
    """

    files: int = 0
    bytes: int = 0
    originals: int = 0
    moved: set[int] = field(default_factory=set)


class _Output(NamedTuple):
    """An output and its archived original."""

    path: str
    marked: Marked
    original: Found


def rebuild(
    folder: Folder,
    ledger: Ledger,
    archive: Archive,
    log: Log,
    progress: Progress = lambda: None,
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
    for _ in record_older(folder, ledger, archive):
        progress()
        rebuilt.originals += 1
    outputs = _find_outputs(folder, archive, rebuilt, progress)
    for batch in in_batches(outputs, _ROWS):
        record_each(
            batch,
            partial(_record_outputs, ledger, folder, rebuilt),
            lambda output: report_bug(log, folder, output.path),
        )
    if not _hash_some(folder, ledger, archive, rebuilt, progress, hash_bytes):
        with ledger.together():  # another thread may end the rest of another folder
            waiting = {folder.root, *(ledger.state.rebuilding.get() or ())}
            ledger.state.rebuilding.set(tuple(sorted(waiting)))
    if rebuilt.files or rebuilt.originals or ledger.damaged is not None:
        report(folder, rebuilt, log, _message(ledger.damaged))
    return rebuilt


def report(folder: Folder, rebuilt: Rebuilt, log: Log, message: str) -> None:
    """Log what the ledger has again."""
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
    folder: Folder, archive: Archive, rebuilt: Rebuilt, progress: Progress
) -> Iterator[_Output]:
    """The files that are outputs and have an original."""
    older = frozenset(archive.originals.version_hashes())
    for at in walk(
        folder.root,
        recursive=folder.recursive,
        wanted=lambda path, e: not is_temporary(e.name) and folder.selects(path),
    ):
        with archive.originals.open_mirror(folder.name, at.path) as mirror:
            for number, name in enumerate(at.names):
                if number % BATCH == 0:
                    progress()
                newest = mirror.find(name)
                # A new installation has no originals, so it reads no headers.
                if newest is None and not older:
                    continue
                marked = marks_at(at.fd, name)
                if marked is not None:
                    original = _choose_original(mirror, name, marked, newest, older)
                    if original is not None:
                        yield _Output(at.path + name, marked, original)
                    elif marked.bytes_in is not None:
                        rebuilt.moved.add(marked.bytes_in)


def _choose_original(
    mirror: Mirror, name: str, marked: Marked, newest: Found | None, older: frozenset[str]
) -> Found | None:
    """The archived original that the marks name; None if the archive has none of this path."""
    if marked.sha256 in older and (aside := mirror.find_older(name, marked.sha256)):
        return aside
    if newest is None or newest.stat.st_size != marked.bytes_in:
        return None
    # It may be that of another file: an output with another name was copied or moved here, and
    # originals often have the same size. On a disk that folds case the names may differ in that.
    if mirror.folds_case or marked.name != name_in_marks(name):
        return mirror.verify(name, marked.sha256)
    return newest


def _record_outputs(ledger: Ledger, folder: Folder, rebuilt: Rebuilt, found: list[_Output]) -> None:
    """Record the outputs that have no row yet."""
    known = [(output.path, output.marked.identity) for output in found]
    with ledger.together():  # a crash leaves whole batches; the next start finds the others
        unknown = {path for path, _ in ledger.files.unknown(folder.root, known)}
        rows = [_row(output) for output in found if output.path in unknown]
        ledger.files.record_all(folder.root, folder.name, rows)
    rebuilt.files += len(rows)
    rebuilt.bytes += sum(columns["bytes_out"] or 0 for _, _, columns in rows)


def _row(output: _Output) -> tuple[str, Identity, Columns]:
    path, marked, original = output
    columns = Columns(
        outcome=Outcome.COMPRESSED, staged=marked.identity, sha256_in=marked.sha256,
        bytes_in=marked.bytes_in, bytes_out=marked.identity.size, archive_path=original.path,
        archive_method=archive_method(original.stat), emitted=1,
        published=marked.identity.ctime_ns / 1e9,
    )  # fmt: skip
    return path, Identity.of(original.stat), columns


def _hash_some(
    folder: Folder,
    ledger: Ledger,
    archive: Archive,
    rebuilt: Rebuilt,
    progress: Progress,
    hash_bytes: float,
) -> bool:
    """Record originals that no output names. False: some are left for later.

    Not those whose outputs were renamed: their rows have to follow before the folder is known.
    """
    left, is_complete = hash_bytes, True
    for archived, path in find_unclaimed(folder, ledger, archive):
        progress()
        try:
            size = os.lstat(archived).st_size
            if size <= left or size in rebuilt.moved:
                left -= size
                hash_unclaimed(folder, ledger, archive, archived, path)
                rebuilt.originals += 1
                continue
        except (FileError, OSError):  # one that cannot be read now does not keep the folder closed
            pass
        is_complete = False
    return is_complete


def _message(damaged: str | None) -> str:
    why = "the ledger did not know this folder"
    if damaged is not None:
        why = f"the ledger was damaged and is now {damaged}"
    return (
        f"{why}; lensd recognized outputs by their marks and originals by their place in the "
        "archive. Files without marks come under `existing`"
    )
