"""Archived originals that are older than `archive.keep_days` are deleted: here, and nowhere else.

An original goes only after its published file was read again whole and is what the ledger says.
`rescued/` and whatever the ledger does not know of stay.
"""

from __future__ import annotations

import datetime as dt
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from msgspec import UNSET

from lensd.errors import FileError
from lensd.jobs import reread
from lensd.logs.events import DaemonPruned, FilePruned
from lensd.store.archive import Archive
from lensd.store.disk_errors import Interrupted
from lensd.store.entry import Entry
from lensd.store.ledger import Ledger
from lensd.watcher.folder import Log

DAY_SECONDS = 86400.0
FIRST_SECONDS = 600.0  # after the start, where a pass is overdue
CLOCK_WAS_SET_SECONDS = 3600.0
LAST_PASS, UNDER_WAY = "pruned_at", "pruning"  # notes in the ledger

Stop = Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one original that is old enough: deleted, or why it stays."""

    path: str  # in the watched folder
    watch: str
    job_id: str
    sha256: str
    bytes: int
    archive_path: str
    stays: str | None = None


class _Stays(Exception):
    """An original that is old enough and must not go; the text says why."""


class Pruner:
    """For the holder of the state folder's lock; with `dry_run` for anybody."""

    def __init__(self, ledger: Ledger, archive: Archive, log: Log, keep_days: int) -> None:
        self._ledger = ledger
        self._archive = archive
        self._log = log
        self._keep_days = keep_days

    def prune(self, now: float, stop: Stop, *, dry_run: bool = False) -> Iterator[Result]:
        """Delete what is due at the wall time `now`, one original for each step of the iterator.

        Ends early, between two files or while one is read, when `stop()` says so.
        """
        if not dry_run:
            self.complete()
        before = now - self._keep_days * DAY_SECONDS
        seen = set()
        for old in self._ledger.older_than(before):
            key = (old.archive_path, old.sha256_in)
            if stop():
                return
            if key not in seen:
                seen.add(key)
                try:
                    result = self._treat(old, before, stop, dry_run=dry_run)
                except Interrupted:
                    return
                if result is not None:
                    yield result

    def daily(self, now: float, stop: Stop) -> None:
        """The daemon's pass: as `prune`, with one line that sums it up."""
        files = size = kept = 0
        for result in self.prune(now, stop):
            if result.stays is None:
                files, size = files + 1, size + result.bytes
            else:
                kept += 1
        if stop():
            return
        self._ledger.set_meta(LAST_PASS, repr(now))
        if files or kept:
            message = (
                "originals that stay beyond archive.keep_days are listed, with the reason, "
                "by `lensd prune --dry-run`"
            )
            self._log(DaemonPruned(files=files, bytes=size, kept=kept, message=message))

    def last_pass(self) -> float | None:
        """When `daily` was last completed (wall time)."""
        note = self._ledger.get_meta(LAST_PASS)
        return None if note is None else float(note)

    def complete(self) -> None:
        """What a crash left: the ledger said what was to be deleted, so it is."""
        note = under_way(self._ledger)
        if note is not None:
            job_id, paths = note
            self._delete(self._result(self._ledger.get(job_id), paths), paths, recovered=True)

    def _treat(self, old: Entry, before: float, stop: Stop, *, dry_run: bool) -> Result | None:
        rows = self._ledger.history(old.root, old.path)
        same = [r for r in rows if (r.archive_path, r.sha256_in) == _key(old)]
        current = next((r for r in reversed(rows) if r.outcome == "compressed"), None)
        if not same or (current is not None and (current.published or before) >= before):
            return None  # an older version begins to age when it is replaced
        entry = same[-1]
        try:
            _require_rest(rows)
            _require_published(current, stop)
            paths = self._held(entry, stop)
        except _Stays as why:
            return self._result(entry, [], stays=str(why))
        except (FileError, OSError) as error:
            return self._result(entry, [], stays=str(error))
        result = self._result(entry, paths)
        if not dry_run:
            self._intend(entry, paths)
            self._delete(result, paths)
        return result

    def _held(self, entry: Entry, stop: Stop) -> list[str]:
        """The paths whose bytes are this original. A path may hold another version's by now."""
        held, others = [], 0
        for path in reread.places(self._archive, entry):
            try:
                reading = reread.original(self._archive, path, stop)
            except FileNotFoundError:
                continue
            if reading.sha256 == entry.sha256_in:
                held.append(path)
            else:
                others += 1
        if not held:
            what = "is damaged" if others and entry.outcome == "compressed" else "is not there"
            raise _Stays(f"the archived original {what}: see `lensd verify`")
        return held

    def _result(self, entry: Entry, paths: Sequence[str], stays: str | None = None) -> Result:
        return Result(
            path=entry.full_path,
            watch=entry.watch,
            job_id=entry.job_id,
            sha256=entry.sha256_in or "",
            bytes=entry.bytes_in or 0,
            archive_path=paths[0] if paths else entry.archive_path or "",
            stays=stays,
        )

    def _intend(self, entry: Entry, paths: Sequence[str]) -> None:
        """Written down before: at no time does the ledger count on an original that is gone."""
        self._ledger.set_meta(UNDER_WAY, json.dumps([entry.job_id, paths]))

    def _delete(self, result: Result, paths: Sequence[str], *, recovered: bool = False) -> None:
        for path in paths:
            try:
                self._archive.remove(path)
            except FileNotFoundError:
                if not recovered:
                    raise
        day = dt.datetime.fromtimestamp(time.time()).astimezone().date().isoformat()
        self._ledger.pruned(result.job_id)
        self._ledger.update(
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
        self._ledger.set_meta(UNDER_WAY, None)


@dataclass(slots=True)
class Daily:
    """When the next pass is due. Times are wall time and seconds since boot, sleep included.

    A clock that is set while lensd runs would make every original old at once: a day must then
    pass in peace before anything is deleted.
    """

    wall: float
    boot: float
    wait: float = FIRST_SECONDS

    def is_due(self, last: float | None, wall: float, boot: float) -> bool:
        """Whether to start a pass, the last of which was at `last`."""
        if abs((wall - self.wall) - (boot - self.boot)) > CLOCK_WAS_SET_SECONDS:
            self.wall, self.boot, self.wait = wall, boot, DAY_SECONDS
        rested = boot - self.boot >= self.wait
        return rested and (last is None or not 0 <= wall - last < DAY_SECONDS)


class DailyPass:
    """Deletes originals that are older than keep_days, once a day between two jobs."""

    def __init__(self, pruner: Pruner) -> None:
        self._pruner = pruner
        self._due = Daily(*_clocks())
        self._is_begun = False

    def run_if_due(self, stop: Callable[[], bool]) -> None:
        """Raises StorageError; ends early when `stop()` says so, to begin again later."""
        if not self._is_begun:
            self._pruner.complete()
            self._is_begun = True
        wall, boot = _clocks()
        if self._due.is_due(self._pruner.last_pass(), wall, boot):
            self._pruner.daily(wall, stop)


def _clocks() -> tuple[float, float]:
    return time.time(), time.clock_gettime(time.CLOCK_BOOTTIME)


def under_way(ledger: Ledger) -> tuple[str, list[str]] | None:
    """The job and the archived paths of the original that is being deleted, or was at a crash."""
    note = ledger.get_meta(UNDER_WAY)
    if note is None:
        return None
    job_id, paths = json.loads(note)
    return job_id, paths


def _key(entry: Entry) -> tuple[str | None, str | None]:
    return entry.archive_path, entry.sha256_in


def _require_rest(rows: Sequence[Entry]) -> None:
    if any(r.state != "done" for r in rows):
        raise _Stays("a job of this file is waiting or under way")


def _require_published(current: Entry | None, stop: Stop) -> None:
    """The file under the name is lensd's output, whole and undamaged."""
    if current is None:
        raise _Stays("no output of lensd lies under the name any more: restored, or moved away")
    try:
        reading = reread.published(current, stop)
    except FileNotFoundError:
        raise _Stays("the compressed file is not there") from None
    if reading.original is None:
        raise _Stays("another file lies under the name: it is not lensd's output")
    if (reading.sha256, reading.original) != (current.sha256_out, current.sha256_in):
        raise _Stays("the compressed file was changed or is damaged: see `lensd verify`")
