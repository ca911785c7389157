"""AutoV3, the hash of a file's tensors without the header: computed after a job, not in it.

The job thread computes the hashes of new files while it has nothing else to do, when their pages
are mostly in memory, and keeps them in the line of the ledger. Those of other files are computed
on demand (docs/decisions/0041-auto-v3-later-and-cuda-by-eye.md).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from lensd.errors import DiskUnavailable, FileError, StorageError
from lensd.jobs.archived import open_original
from lensd.store.archive import Archive
from lensd.store.disk_errors import Interrupted
from lensd.store.fs import open_folder, open_regular
from lensd.store.hashing import data_sha256_of
from lensd.store.identity import Identity
from lensd.store.ledger import Ledger
from lensd.store.ledger.entry import Entry
from lensd.watcher.own_output import names_another

Stop = Callable[[], bool]

ORIGINAL, OUTPUT = "data_sha256_in", "data_sha256_out"  # fields of the log line


class DataHashes:
    """Keeps the hashes of files that are published from the first start of this version on."""

    def __init__(self, ledger: Ledger, archive: Archive) -> None:
        self._ledger = ledger
        self._archive = archive

    def next_entry(self) -> Entry | None:
        """The next file without hashes."""
        note = self._ledger.state.hashed_until
        since = note.get()
        if since is None:
            note.set(time.time())
            return None
        return self._ledger.files.published_after(since)

    def keep(self, entry: Entry, stop: Stop) -> None:
        """Compute the hashes of an entry; without effect if `stop()` becomes true meanwhile.

        A file that is away or has changed has no hash. Raises DiskUnavailable.
        """
        try:
            found = compute(self._archive, entry, stop)
        except Interrupted:
            return
        with self._ledger.together():
            line = self._ledger.jobs.get(entry.job_id).line
            if found and line is not None:
                self._ledger.jobs.update(entry.job_id, line={**line, **found})
            self._ledger.state.hashed_until.set(entry.published or time.time())


def compute(archive: Archive, entry: Entry, stop: Stop | None = None) -> dict[str, str]:
    """Return the hashes that the line of a compressed file lacks, by their names in it.

    Files that are away or have changed have none. Raises Interrupted when `stop()` is true, and
    DiskUnavailable.
    """
    known, found = entry.line or {}, {}
    for name, read in ((ORIGINAL, _of_original), (OUTPUT, _of_output)):
        if name not in known:
            try:
                sha256 = read(archive, entry, stop)
            except DiskUnavailable:
                raise
            except (FileError, StorageError, OSError):
                continue
            if sha256 is not None:
                found[name] = sha256
    return found


def _of_original(archive: Archive, entry: Entry, stop: Stop | None) -> str | None:
    if entry.archive_path is None:
        return None
    fd = open_original(archive, entry.archive_path)
    try:
        has_size = entry.bytes_in in (None, os.fstat(fd).st_size)
        return data_sha256_of(fd, stop) if has_size else None
    finally:
        os.close(fd)


def _of_output(_: Archive, entry: Entry, stop: Stop | None) -> str | None:
    folder, name = os.path.split(entry.path)
    folder_fd = open_folder(entry.root, folder)
    try:
        fd = open_regular(folder_fd, name)
    finally:
        os.close(folder_fd)
    try:
        is_published = Identity.of(os.fstat(fd)).same_content(entry.present)
        if not is_published or names_another(entry.root, entry.path, entry.sha256_in):
            return None
        return data_sha256_of(fd, stop)
    finally:
        os.close(fd)
