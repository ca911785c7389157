"""Finds files and originals that a person has deleted, so that the totals leave them out."""

from __future__ import annotations

import time
from collections.abc import Iterator

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
_MESSAGES = {
    "file": "its compressed file was deleted. `lensd restore` with its path brings the original "
    "back; `lensd prune --deleted` deletes that too",
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
            for entry, what in self._find():
                if stop():
                    return False
                found.add((entry.job_id, what))
                if (entry.job_id, what) not in known:
                    self._ledger.gone.change([(entry.job_id, what)])
                    self._report(entry, what)
        self._ledger.gone.change((), known - found)
        return True

    def _find(self) -> Iterator[tuple[Entry, What]]:
        there: dict[str, bool] = {}
        for entry in self._ledger.files.with_outcome(Outcome.COMPRESSED, Outcome.REPLACED):
            if entry.root not in there:
                there[entry.root] = is_there(self._ledger, entry.root)
            is_output = entry.outcome == Outcome.COMPRESSED
            if is_output and there[entry.root] and is_lost(entry):
                yield entry, "file"
            paths = reread.archive_paths(self._archive, entry)
            if paths and not any(self._archive.originals.has(path) for path in paths):
                yield entry, "original"

    def _report(self, entry: Entry, what: What) -> None:
        size = entry.bytes_out if what == "file" else entry.bytes_in
        self._log(
            FileDeleted(
                path=entry.full_path,
                watch=entry.watch,
                job_id=entry.job_id,
                what=what,
                bytes=size or 0,
                message=_MESSAGES[what],
            )
        )
