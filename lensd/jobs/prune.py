"""Deletes archived originals that are older than `archive.keep_days`. No other code deletes one.

An original is deleted only after its published file was read again whole and is what the ledger
says. `rescued/` and files that the ledger does not know stay.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from msgspec import UNSET

from lensd.errors import FileError
from lensd.jobs import reread
from lensd.logs.events import FilePruned
from lensd.store.archive import Archive
from lensd.store.disk_errors import Interrupted
from lensd.store.ledger import JobState, Ledger, Outcome
from lensd.store.ledger.entry import Entry
from lensd.store.ledger.notes import PruneInProgress
from lensd.watcher.folder import Log

DAY_SECONDS = 86400.0

Stop = Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Pruned:
    """One original that is old enough: deleted, or `kept_because` of what the text says."""

    path: str  # in the watched folder
    watch: str
    job_id: str
    sha256: str
    bytes: int
    archive_path: str
    kept_because: str | None = None


class _KeepError(Exception):
    """An original is old enough and must not be deleted; the text says why."""


class Pruner:
    """For the process that has the state folder's lock; with `dry_run` for any process."""

    def __init__(self, ledger: Ledger, archive: Archive, log: Log, keep_days: int) -> None:
        self._ledger = ledger
        self._archive = archive
        self._log = log
        self._keep_days = keep_days

    def prune(self, now: float, stop: Stop, *, dry_run: bool = False) -> Iterator[Pruned]:
        """Delete what is due at the wall time `now`, one original per step of the iterator.

        Ends early, between two files or within one that is read, when `stop()` is true. Raises
        FileError, OSError if a deletion could not be completed: the next call completes it.
        """
        if not dry_run:
            self.finish_interrupted()
        before = now - self._keep_days * DAY_SECONDS
        seen = set()
        for old in self._ledger.originals.published_before(before):
            key = _key(old)
            if stop():
                return
            if key not in seen:
                seen.add(key)
                try:
                    result = self._prune_one(old, before, stop, dry_run=dry_run)
                except Interrupted:
                    return
                if result is not None:
                    yield result

    def finish_interrupted(self) -> None:
        """After a crash: record an original as deleted, or keep one that is still there."""
        note = self._ledger.state.prune_in_progress.get()
        if note is None:
            return
        job_id, paths = note
        if self._has_any(paths):  # its output may have been deleted since lensd read it
            self._ledger.state.prune_in_progress.clear()
        else:
            entry = self._ledger.jobs.get(job_id)
            self._record_deletion(self._result(entry, paths), recovered=True)

    def _prune_one(self, old: Entry, before: float, stop: Stop, *, dry_run: bool) -> Pruned | None:
        rows = self._ledger.files.history(old.root, old.path)
        same = [r for r in rows if _key(r) == _key(old)]
        current = next((r for r in reversed(rows) if r.outcome == Outcome.COMPRESSED), None)
        if not same or (current is not None and (current.published or before) >= before):
            return None  # the age of an older version counts from its replacement
        entry = same[-1]
        try:
            _require_no_job(rows)
            require_unchanged = _require_published(current, stop)
            paths = self._find_copies(entry, stop)
        except (_KeepError, FileError, OSError) as why:
            return self._result(entry, [], kept_because=str(why))
        if dry_run:
            return self._result(entry, paths)
        return self._delete(entry, paths, require_unchanged)

    def _delete(
        self, entry: Entry, paths: Sequence[str], require_unchanged: Callable[[], None]
    ) -> Pruned:
        """An original stays if the disk or the rights of the archive do not allow its deletion."""
        result = self._result(entry, paths)
        # The note comes first: the ledger never counts on an original that is deleted.
        self._ledger.state.prune_in_progress.set(PruneInProgress(entry.job_id, tuple(paths)))
        try:
            for path in paths:
                require_unchanged()
                self._archive.remove(path)
        except (_KeepError, FileError, OSError) as why:
            if not self._has_any(paths):
                raise  # the note stays, so that `finish_interrupted` records the deletion
            self._ledger.state.prune_in_progress.clear()
            return self._result(entry, paths, kept_because=str(why))
        self._record_deletion(result)
        return result

    def _has_any(self, paths: Sequence[str]) -> bool:
        return any(self._archive.has(path) for path in paths)

    def _find_copies(self, entry: Entry, stop: Stop) -> list[str]:
        """The archive paths whose bytes are this original; another version may have such a path."""
        found, others = [], 0
        for path in reread.archive_paths(self._archive, entry):
            try:
                reading = reread.original(self._archive, path, stop)
            except FileNotFoundError:
                continue
            if reading.sha256 == entry.sha256_in:
                found.append(path)
            else:
                others += 1
        if not found:
            what = (
                "is damaged" if others and entry.outcome == Outcome.COMPRESSED else "is not there"
            )
            raise _KeepError(f"the archived original {what}: see `lensd verify`")
        return found

    def _result(
        self, entry: Entry, paths: Sequence[str], kept_because: str | None = None
    ) -> Pruned:
        return Pruned(
            path=entry.full_path,
            watch=entry.watch,
            job_id=entry.job_id,
            sha256=entry.sha256_in or "",
            bytes=entry.bytes_in or 0,
            archive_path=paths[0] if paths else entry.archive_path or "",
            kept_because=kept_because,
        )

    def _record_deletion(self, result: Pruned, *, recovered: bool = False) -> None:
        day = dt.datetime.fromtimestamp(time.time()).astimezone().date().isoformat()
        self._ledger.originals.record_pruned(result.job_id)
        self._ledger.jobs.update(
            result.job_id,
            message=f"its original was deleted from the archive on {day}, after "
            f"archive.keep_days: {self._keep_days}",
        )
        self._log(
            FilePruned(
                path=result.path,
                watch=result.watch,
                job_id=result.job_id,
                sha256=result.sha256,
                bytes=result.bytes,
                archive_path=result.archive_path,
                recovered=recovered or UNSET,
            )
        )
        self._ledger.state.prune_in_progress.clear()


def _key(entry: Entry) -> tuple[str | None, str | None]:
    return entry.archive_path, entry.sha256_in


def _require_no_job(rows: Sequence[Entry]) -> None:
    if any(r.state != JobState.DONE for r in rows):
        raise _KeepError("a job for this file is queued or running")


def _require_published(current: Entry | None, stop: Stop) -> Callable[[], None]:
    """The file under the name must be lensd's output, complete and undamaged.

    Returns a check that raises _KeepError if the file is not the same any more.
    """
    if current is None:
        raise _KeepError("the compressed file is not there: it was restored or moved away")
    try:
        reading = reread.published(current, stop)
    except FileNotFoundError:
        raise _KeepError("the compressed file is not there") from None
    if reading.original is None:
        raise _KeepError("another file has the name: it is not lensd's output")
    if current.sha256_out is None:
        raise _KeepError("the rebuilt ledger does not know the compressed file: see `lensd verify`")
    if (reading.sha256, reading.original) != (current.sha256_out, current.sha256_in):
        raise _KeepError("the compressed file was changed or is damaged: see `lensd verify`")

    def require_unchanged() -> None:
        if not reread.is_unchanged(current.root, current.path, reading.identity):
            raise _KeepError(
                "the compressed file was deleted, replaced or changed while lensd read it"
            )

    return require_unchanged
