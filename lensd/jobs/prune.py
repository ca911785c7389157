"""Deletes archived originals that may go. No other code deletes one.

An original is deleted only after its published file was read again whole and is what the ledger
says; or, where a person asks for that, while its file is deleted. Both are under a lease from
before they are read until the original is unlinked. `rescued/` and files that the ledger does not
know stay.
"""

from __future__ import annotations

import datetime as dt
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from msgspec import UNSET

from lensd.config.document import KeepRules
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
from lensd.watcher.presence import is_lost
from lensd.watcher.settle import Key

__all__ = ["Pruned", "Pruner", "Stop"]

_PUBLISHED = (Outcome.COMPRESSED, Outcome.REPLACED)


@dataclass(frozen=True, slots=True)
class Pruned:
    """One original that was to go: deleted, or `kept_because` of what the text says."""

    path: str  # in the watched folder
    watch: str
    job_id: str
    sha256: str
    bytes: int
    archive_path: str
    kept_because: str | None = None


@dataclass(frozen=True, slots=True)
class _Case:
    """Why an original may go.

    `days`: how old it must be; None: any age. `deleted`: its file must be gone instead of there.
    `text`: the reason, for the ledger. `copies`: originals that outputs under other names need,
    with the path of one of these.
    """

    text: str
    days: int | None = None
    deleted: bool = False
    copies: Mapping[str, str] = field(default_factory=dict)

    def before(self, now: float) -> float:
        """The wall time before which it must have been published."""
        return math.inf if self.days is None else now - self.days * DAY_SECONDS


class _KeepError(Exception):
    """An original is old enough and must not be deleted; the text says why."""


class Pruner:
    """For the process that has the state folder's lock; with `dry_run` for any process."""

    def __init__(
        self,
        ledger: Ledger,
        archive: Archive,
        log: Log,
        keep: KeepRules,
        quiet_seconds: float,
        moved: Mapping[str, Key] | None = None,
    ) -> None:
        """`moved`: as for a PruneChoice; only a dry run may have any."""
        self._moved = moved or {}
        self._ledger = ledger
        self._archive = archive
        self._log = log
        self._keep = keep
        self._quiet_seconds = quiet_seconds

    def prune(self, now: float, stop: Stop, *, dry_run: bool = False) -> Iterator[Pruned]:
        """Delete what is due at the wall time `now`, one original per step of the iterator.

        Ends early, between two files or within one that is read, when `stop()` is true. Raises
        DiskUnavailable if the archive is away, and FileError, OSError if a deletion could not be
        completed: the next call completes it.
        """
        with hold_archive(self._archive, self._ledger):
            results = self._prune(self._due(now), now, stop, dry_run=dry_run)
            gone = 0
            for result in results:
                gone += _bytes_gone(result) if dry_run else 0
                yield result
            yield from self._shrink(gone, now, stop, dry_run=dry_run)

    def prune_chosen(
        self,
        chosen: Sequence[Entry],
        stop: Stop,
        *,
        dry_run: bool,
        deleted: bool,
        days: int | None,
        copies: Mapping[str, str],
    ) -> Iterator[Pruned]:
        """Delete the originals of rows that a person chose; otherwise as `prune`.

        `days`: how old they must be; None: any age. With `deleted` their files must be gone.
        `copies`: originals that other outputs name (`copies.find_copies`).
        """
        text = "after `lensd prune --deleted`" if deleted else "after `lensd prune` with its path"
        case = _Case(text, days, deleted=deleted, copies=copies)
        with hold_archive(self._archive, self._ledger):
            cases = ((row, case) for row in chosen)
            yield from self._prune(cases, time.time(), stop, dry_run=dry_run)

    def _due(self, now: float) -> Iterator[tuple[Entry, _Case]]:
        """What is older than `keep_days`."""
        if self._keep.keep_days is not None:
            days = self._keep.keep_days
            case = _Case(f"after archive.keep_days: {days}", days)
            for row in self._ledger.originals.published_before(case.before(now)):
                yield row, case

    def _shrink(self, gone: int, now: float, stop: Stop, *, dry_run: bool) -> Iterator[Pruned]:
        """Delete the oldest originals while all of them, less `gone`, exceed `max_size`."""
        if self._keep.max_size is None or stop():
            return
        case = _Case("since the archive exceeded archive.max_size", days=1)
        excess = self._ledger.files.totals().held_by_archive - gone - self._keep.max_size

        def oldest() -> Iterator[tuple[Entry, _Case]]:
            for row in self._ledger.originals.published_before(case.before(now)):
                if excess <= 0:
                    return
                yield row, case

        for result in self._prune(oldest(), now, stop, dry_run=dry_run):
            excess -= _bytes_gone(result)
            yield result

    def _prune(
        self, cases: Iterable[tuple[Entry, _Case]], now: float, stop: Stop, *, dry_run: bool
    ) -> Iterator[Pruned]:
        if not dry_run:
            self.finish_interrupted()
        seen = set()
        for old, case in cases:
            key = _key(old)
            if stop():
                return
            if key not in seen:
                seen.add(key)
                try:
                    result = self._prune_one(old, case, now, stop, dry_run=dry_run)
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
            self._record_deletion(
                self._result(entry, paths), _Case("before a crash"), recovered=True
            )

    def _prune_one(
        self, old: Entry, case: _Case, now: float, stop: Stop, *, dry_run: bool
    ) -> Pruned | None:
        before = case.before(now)
        rows = self._ledger.files.history(old.root, old.path)
        # Not the row of a redo that failed: its size and message are those of the redo.
        same = [r for r in rows if _key(r) == _key(old) and r.outcome in _PUBLISHED]
        current = next((r for r in reversed(rows) if r.outcome == Outcome.COMPRESSED), None)
        is_old = current is None or case.days is None or (current.published or before) < before
        if not same or not is_old:
            return None  # the age of an older version counts from its replacement
        entry = same[-1]
        with ExitStack() as opened:
            try:
                self._require_in_place(old, case)
                self._require_seen(old, current, case)
                self._require_no_job(rows)
                require_unchanged, held = _hold_file(old, current, case, stop, opened)
                copies = self._hold_copies(entry, stop, opened)
                if not dry_run and any(h.lease is None for h in (*held, *copies.values())):
                    reread.wait_quiet(self._quiet_seconds, stop)
            except (_KeepError, FileError, OSError) as why:
                return self._result(entry, [], kept_because=str(why))
            if dry_run:
                return self._result(entry, list(copies))
            return self._delete(entry, copies, require_unchanged, case)

    def _require_in_place(self, old: Entry, case: _Case) -> None:
        """Its file is where the ledger has it, and is not the output of an older version."""
        if (new := self._moved.get(old.job_id)) is not None:
            raise _KeepError(
                f"its file is {os.path.join(*new)} now; `lensd prune` without --dry-run records "
                "that first, and then decides"
            )
        copy = case.copies.get(old.sha256_in or "")
        if copy is not None and old.outcome == Outcome.REPLACED:
            raise _KeepError(f"it is an older version here, and {copy} is compressed from it")

    def _require_seen(self, old: Entry, current: Entry | None, case: _Case) -> None:
        """The dates say that it is old enough: lensd must have seen that time pass, too."""
        if case.days is None:
            return
        observed = self._ledger.observed
        if (pause := observed.pause()) > 0:
            raise _KeepError(
                "the clock was set, so nothing is deleted for another "
                f"{pause / 3600:.1f} hours. Check the clock (`timedatectl`)"
            )
        rows = [row for row in (old, current) if row is not None]
        seen = min(map(observed.age, rows))
        if seen < case.days * DAY_SECONDS:
            raise _KeepError(
                f"lensd has seen only {max(0.0, seen) / DAY_SECONDS:.1f} days pass since it was "
                f"compressed, and {case.days} are needed. The clock was wrong, or the "
                "machine was off for long"
            )
        grace = min(max(map(observed.grace, rows)), case.days * DAY_SECONDS - observed.now())
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
        self,
        entry: Entry,
        copies: dict[str, Held],
        require_unchanged: Callable[[], None],
        case: _Case,
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
        self._record_deletion(result, case)
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

    def _record_deletion(self, result: Pruned, case: _Case, *, recovered: bool = False) -> None:
        day = dt.datetime.fromtimestamp(time.time()).astimezone().date().isoformat()
        self._ledger.originals.record_pruned(result.job_id)
        if case.deleted:
            self._ledger.gone.change([(result.job_id, "file")])
        self._ledger.jobs.update(
            result.job_id,
            message=f"its original was deleted from the archive on {day}, {case.text}",
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


def _bytes_gone(result: Pruned) -> int:
    return result.bytes if result.kept_because is None else 0


def _hold_file(
    old: Entry, current: Entry | None, case: _Case, stop: Stop, opened: ExitStack
) -> tuple[Callable[[], None], Sequence[Held]]:
    """What must still be so right before the unlink, and the published file if it must be there."""
    if case.deleted:
        _require_deleted(old)
        return lambda: _require_deleted(old), ()
    output = _hold_published(current, stop, opened)
    return lambda: _require_unchanged(old, output), (output,)


def _require_deleted(old: Entry) -> None:
    if not is_lost(old):
        raise _KeepError("its file is there again, or its folder is away")


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
        raise _KeepError(
            "the compressed file is not there; `lensd prune --deleted` is for originals of deleted "
            "files"
        ) from None
    reading = output.reading
    if reading.original is None:
        raise _KeepError("another file has the name: it is not lensd's output")
    if reading.original != current.sha256_in:
        raise _KeepError("another file has the name: it is the output of another original")
    if current.sha256_out is None:
        raise _KeepError("the rebuilt ledger does not know the compressed file: see `lensd verify`")
    if reading.sha256 != current.sha256_out:
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
