"""Finds files and originals that a person has deleted, so that lists and totals omit them."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator, Sequence
from functools import cache, partial

from lensd.jobs import reread
from lensd.jobs.archive_check import hold_archive
from lensd.jobs.reread import Stop
from lensd.jobs.restoring import is_there
from lensd.logs.events import FileDeleted
from lensd.store.archive import Archive
from lensd.store.ledger import Ledger, Outcome
from lensd.store.ledger.entry import Entry
from lensd.store.ledger.gone import UNCOMPRESSED, Place, What
from lensd.watcher.folder import Log
from lensd.watcher.presence import is_lost
from lensd.watcher.root_monitor import RARELY_SECONDS

FIRST_SECONDS = 600.0  # from a start: by then lensd has followed the files that were moved
TOGETHER = 200  # files that one commit records: a commit may wait for the disk
_MESSAGES = {
    "file": "its compressed file was deleted. `lensd restore` with its path brings the original "
    "back; `lensd prune --deleted` deletes that too",
    "both": "its compressed file was deleted, and its original is not in the archive any more",
    "left": "it was not compressed, so that lensd has no original of it",
    "original": "its original was deleted from the archive by another program than lensd, so that "
    "lensd cannot restore it",
}


class GoneFiles:
    """For the process that has the state folder's lock. It deletes nothing."""

    def __init__(self, ledger: Ledger, archive: Archive, log: Log) -> None:
        self._ledger = ledger
        self._archive = archive
        self._log = log
        self._due = time.monotonic() + FIRST_SECONDS

    def look_if_due(self, stop: Stop) -> None:
        """As often as lensd scans a folder that it watches well."""
        if time.monotonic() >= self._due and self.look(stop):
            self._due = time.monotonic() + RARELY_SECONDS

    def look(self, stop: Stop = lambda: False) -> bool:
        """Record and log what is gone. False: `stop()` ended it early.

        Raises StorageError, DiskUnavailable.
        """
        known, found = self._ledger.gone.known(), set()
        new: list[tuple[str, What]] = []
        with hold_archive(self._archive, self._ledger):
            for gone in self._find(known):
                if stop():
                    self._record(new)
                    return False
                found.add(gone)
                if gone not in known:
                    new.append(gone)
                if len(new) == TOGETHER:
                    self._record(new)
                    new.clear()
        self._record(new)
        self._ledger.gone.change((), known - found)
        return True

    def _record(self, new: Sequence[tuple[str, What]]) -> None:
        """Record what is gone with one commit, and log each."""
        rows = [(self._ledger.files.by_job(job_id), what) for job_id, what in new]
        found = [(row, what) for row, what in rows if row is not None]
        self._ledger.gone.change((row.job_id, what) for row, what in found)
        for row, what in found:
            self._report(row, what)

    def _find(self, known: Collection[tuple[str, What]]) -> Iterator[tuple[str, What]]:
        """The job of each deleted file or original, and which of both it is.

        One stat shows that a path is there, as nearly all are. A slower look decides the others. A
        `known` file stays deleted while its disk is away, which says nothing about it.
        """
        there = cache(partial(is_there, self._ledger))

        def is_deleted(place: Place) -> bool:
            if os.path.lexists(place.full_path):
                return False
            return (place.job_id, "file") in known or (there(place.root) and is_lost(place))

        for place in self._ledger.gone.places(*UNCOMPRESSED):
            if is_deleted(place):
                yield place.job_id, "file"
        for place in self._ledger.gone.places(Outcome.COMPRESSED, Outcome.REPLACED):
            if place.outcome is Outcome.COMPRESSED and is_deleted(place):
                yield place.job_id, "file"
            paths = reread.archive_paths(self._archive, place)
            if paths and not (os.path.lexists(paths[0]) or any(map(self._may_have, paths))):
                yield place.job_id, "original"

    def _may_have(self, path: str) -> bool:
        """Whether the archive has an original; also true if the disk does not say."""
        try:
            return self._archive.originals.has(path)
        except OSError:
            return True

    def _report(self, entry: Entry, what: What) -> None:
        size, message = entry.bytes_in, _MESSAGES[what]
        if entry.outcome in UNCOMPRESSED:
            newest = self._ledger.files.find(entry.root, entry.path)
            if newest is None or newest.job_id != entry.job_id:
                return  # an older version of the file
            size, message = entry.identity.size, _MESSAGES["left"]
        elif what == "file":
            size = entry.bytes_out
            message = message if entry.archive_path else _MESSAGES["both"]
        self._log(
            FileDeleted(
                path=entry.full_path,
                watch=entry.watch,
                job_id=entry.job_id,
                what=what,
                bytes=size or 0,
                message=message,
            )
        )
