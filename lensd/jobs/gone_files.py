"""Finds files and originals that a person has deleted, so that the totals leave them out."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator
from functools import cache, partial

from lensd.jobs import reread
from lensd.jobs.archive_check import hold_archive
from lensd.jobs.reread import Stop
from lensd.jobs.restoring import is_there
from lensd.logs.events import FileDeleted
from lensd.store.archive import Archive
from lensd.store.ledger import Ledger, Outcome
from lensd.store.ledger.entry import Entry
from lensd.store.ledger.gone import What
from lensd.watcher.folder import Log
from lensd.watcher.presence import is_lost
from lensd.watcher.root_monitor import RARELY_SECONDS

FIRST_SECONDS = 600.0  # from a start: by then lensd has followed the files that were moved
_UNCOMPRESSED = Outcome.FAILED, Outcome.QUARANTINED, Outcome.SKIPPED, Outcome.KEPT
_MESSAGES = {
    "file": "its compressed file was deleted. `lensd restore` with its path brings the original "
    "back; `lensd prune --deleted` deletes that too",
    "both": "its compressed file was deleted, and its original is not in the archive any more",
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
        with hold_archive(self._archive, self._ledger):
            for gone in self._find(known):
                if stop():
                    return False
                found.add(gone)
                entry = None if gone in known else self._ledger.files.by_job(gone[0])
                if entry is not None:
                    self._ledger.gone.change([gone])
                    self._report(entry, gone[1])
        self._ledger.gone.change((), known - found)
        self._forget_problems(stop)
        return True

    def _forget_problems(self, stop: Stop) -> None:
        """Forget why deleted files were not compressed: there is nothing to do about them."""
        there = cache(partial(is_there, self._ledger))
        for place in self._ledger.gone.places(*_UNCOMPRESSED):
            if stop():
                return
            if os.path.lexists(place.full_path) or not (there(place.root) and is_lost(place)):
                continue
            entry = self._ledger.files.by_job(place.job_id)
            if entry is not None and not entry.redo:
                self._ledger.jobs.release([entry])

    def _find(self, known: Collection[tuple[str, What]]) -> Iterator[tuple[str, What]]:
        """The job of each deleted file or original, and which of both it is.

        One stat shows that a path is there, as nearly all are. A slower look decides the others. A
        `known` file stays deleted while its disk is away, which says nothing about it.
        """
        there = cache(partial(is_there, self._ledger))
        for place in self._ledger.gone.places(Outcome.COMPRESSED, Outcome.REPLACED):
            if place.outcome is Outcome.COMPRESSED and not os.path.lexists(place.full_path):
                is_known = (place.job_id, "file") in known
                if is_known or (there(place.root) and is_lost(place)):
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
        size = entry.bytes_out if what == "file" else entry.bytes_in
        self._log(
            FileDeleted(
                path=entry.full_path,
                watch=entry.watch,
                job_id=entry.job_id,
                what=what,
                bytes=size or 0,
                message=_MESSAGES["both" if what == "file" and not entry.archive_path else what],
            )
        )
