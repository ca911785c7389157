"""Deletes archived originals that are older than `archive.keep_days`. No other code deletes one.

An original is deleted only after its published file was read again whole and is what the ledger
says. Both are under a lease from before they are read until the original is unlinked. `rescued/`
and files that the ledger does not know stay.
"""

from __future__ import annotations

import datetime as dt
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from msgspec import UNSET

from lensd.errors import FileError
from lensd.jobs import reread
from lensd.jobs.archive_check import hold_archive
from lensd.jobs.reread import Held, Stop
from lensd.logs.events import FilePruned
from lensd.store.archive import Archive
from lensd.store.disk_errors import Interrupted
from lensd.store.fs import open_folder
from lensd.store.identity import Identity
from lensd.store.ledger import JobState, Ledger, Outcome
from lensd.store.ledger.entry import Entry
from lensd.store.ledger.notes import PruneInProgress
from lensd.store.ledger.observed import DAY_SECONDS
from lensd.watcher.folder import Log

__all__ = ["Pruned", "Pruner", "Stop"]


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

    def __init__(
        self, ledger: Ledger, archive: Archive, log: Log, keep_days: int, quiet_seconds: float
    ) -> None:
        self._ledger = ledger
        self._archive = archive
        self._log = log
        self._keep_days = keep_days
        self._quiet_seconds = quiet_seconds

    def prune(self, now: float, stop: Stop, *, dry_run: bool = False) -> Iterator[Pruned]:
        """Delete what is due at the wall time `now`, one original per step of the iterator.

        Ends early, between two files or within one that is read, when `stop()` is true. Raises
        DiskUnavailable if the archive is away, and FileError, OSError if a deletion could not be
        completed: the next call completes it.
        """
        with hold_archive(self._archive, self._ledger):
            yield from self._prune(now, stop, dry_run=dry_run)

    def _prune(self, now: float, stop: Stop, *, dry_run: bool) -> Iterator[Pruned]:
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
        with hold_archive(self._archive, self._ledger):
            has_any = self._has_any(paths)
        if has_any:  # its output may have been deleted since lensd read it
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
        with ExitStack() as opened:
            try:
                self._require_seen(old, current)
                self._require_no_job(rows)
                output = _hold_published(current, stop, opened)
                copies = self._hold_copies(entry, stop, opened)
                if not dry_run and any(held.lease is None for held in (output, *copies.values())):
                    reread.wait_quiet(self._quiet_seconds, stop)
            except (_KeepError, FileError, OSError) as why:
                return self._result(entry, [], kept_because=str(why))
            if dry_run:
                return self._result(entry, list(copies))
            return self._delete(entry, copies, lambda: _require_unchanged(old, output))

    def _require_seen(self, old: Entry, current: Entry | None) -> None:
        """The dates say that it is old enough: lensd must have seen that time pass, too."""
        observed = self._ledger.observed
        if (pause := observed.pause()) > 0:
            raise _KeepError(
                "the clock was set, so nothing is deleted for another "
                f"{pause / 3600:.1f} hours. Check the clock (`timedatectl`)"
            )
        rows = [row for row in (old, current) if row is not None]
        seen = min(map(observed.age, rows))
        if seen < self._keep_days * DAY_SECONDS:
            raise _KeepError(
                f"lensd has seen only {max(0.0, seen) / DAY_SECONDS:.1f} days pass since it was "
                f"compressed (archive.keep_days: {self._keep_days}). The clock was wrong, or the "
                "machine was off for long"
            )
        grace = min(max(map(observed.grace, rows)), self._keep_days * DAY_SECONDS - observed.now())
        if grace > 0:
            raise _KeepError(
                "an older lensd compressed it, and the first days after an upgrade nothing of that "
                f"is deleted: {grace / DAY_SECONDS:.1f} days are left"
            )

    def _require_no_job(self, rows: Sequence[Entry]) -> None:
        restoring = {note.job_id for note in self._ledger.state.restoring.get() or ()}
        if any(r.state != JobState.DONE for r in rows):
            raise _KeepError("a job for this file is queued or running")
        if any(r.job_id in restoring for r in rows):
            raise _KeepError("a crash cut off a restore of this file; the next start completes it")

    def _delete(
        self, entry: Entry, copies: dict[str, Held], require_unchanged: Callable[[], None]
    ) -> Pruned:
        """An original stays if the disk or the rights of the archive do not allow its deletion."""
        paths = list(copies)
        result = self._result(entry, paths)
        # The note comes first: the ledger never counts on an original that is deleted.
        self._ledger.state.prune_in_progress.set(PruneInProgress(entry.job_id, tuple(paths)))
        try:
            for path, copy in copies.items():
                require_unchanged()
                _require_same(path, copy)
                self._archive.remover.remove(path)
        except (_KeepError, FileError, OSError) as why:
            if not self._has_any(paths):
                raise  # the note stays, so that `finish_interrupted` records the deletion
            self._ledger.state.prune_in_progress.clear()
            return self._result(entry, paths, kept_because=str(why))
        self._record_deletion(result)
        return result

    def _has_any(self, paths: Sequence[str]) -> bool:
        return any(self._archive.originals.has(path) for path in paths)

    def _hold_copies(self, entry: Entry, stop: Stop, opened: ExitStack) -> dict[str, Held]:
        """The archive paths whose bytes are this original; another version may have such a path."""
        found, others = {}, 0
        for path in reread.archive_paths(self._archive, entry):
            try:
                copy = opened.enter_context(reread.hold_original(self._archive, path, stop))
            except FileNotFoundError:
                continue
            if copy.reading.sha256 == entry.sha256_in:
                found[path] = copy
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


def _hold_published(current: Entry | None, stop: Stop, opened: ExitStack) -> Held:
    """The file under the name, which must be lensd's output, complete and undamaged."""
    if current is None:
        raise _KeepError("the compressed file is not there: it was restored or moved away")
    folder, name = os.path.split(current.path)
    try:
        folder_fd = open_folder(current.root, folder)
        opened.callback(os.close, folder_fd)
        output = opened.enter_context(reread.hold_at(folder_fd, name, current.full_path, stop))
    except FileNotFoundError:
        raise _KeepError("the compressed file is not there") from None
    reading = output.reading
    if reading.original is None:
        raise _KeepError("another file has the name: it is not lensd's output")
    if current.sha256_out is None:
        raise _KeepError("the rebuilt ledger does not know the compressed file: see `lensd verify`")
    if (reading.sha256, reading.original) != (current.sha256_out, current.sha256_in):
        raise _KeepError("the compressed file was changed or is damaged: see `lensd verify`")
    return output


def _require_unchanged(current: Entry, output: Held) -> None:
    identity = output.reading.identity
    if not (output.unbroken and reread.is_unchanged(current.root, current.path, identity)):
        raise _KeepError("the compressed file was deleted, replaced or changed while lensd read it")


def _require_same(path: str, copy: Held) -> None:
    named = Identity.of(os.lstat(path))
    if not (copy.is_as_read and named.same_content(copy.reading.identity)):
        raise _KeepError("the archived original was replaced or changed while lensd read it")
