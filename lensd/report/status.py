"""Builds the document of `lensd status` from the ledger. Changes nothing."""

from __future__ import annotations

import datetime as dt
import os
from contextlib import suppress
from dataclasses import asdict

import msgspec

from lensd.config.model import Config
from lensd.config.schedule import is_open
from lensd.errors import Outcome, StorageError
from lensd.report import hashes
from lensd.report.documents import (
    Degraded,
    Filesystem,
    Job,
    Problem,
    Schedule,
    Status,
    Totals,
    Waiting,
    WatchedFolder,
)
from lensd.store.archive import Archive
from lensd.store.deadline import ANSWER_SECONDS, within
from lensd.store.ledger import JobState, Ledger
from lensd.store.ledger.entry import Entry
from lensd.store.ledger.state import WaitingFile
from lensd.store.locks import holder
from lensd.store.probe import Proof
from lensd.text import printable
from lensd.watcher.presence import is_lost


def build_status(config: Config, ledger: Ledger | None, *, with_hashes: bool = False) -> Status:
    """Works with and without a running daemon; without a ledger, lensd has not run yet."""
    status = Status(
        daemon=holder(config.state.path),
        watch=[WatchedFolder(name=w.name, path=w.path, mode=w.settings.mode) for w in config.watch],
        schedule=_schedule(config),
        totals=Totals(),
    )
    if ledger is not None:
        _fill(status, ledger)
    if with_hashes:
        archive = Archive(os.path.realpath(config.archive.path))
        compressed = ledger.files.with_outcome(Outcome.COMPRESSED) if ledger else ()
        there = filter(hashes.is_there, compressed)
        status.hashes = [hashes.of_entry(archive, entry) for entry in there]
    return status


def _fill(status: Status, ledger: Ledger) -> None:
    files, state = ledger.files, ledger.state
    with ledger.snapshot():  # a file that waits may become a job between two reads
        jobs, waiting = list(ledger.jobs.unfinished()), state.waiting()
    status.degraded = [] if status.daemon is None else _degraded(ledger)
    status.running = [_job(e) for e in jobs if e.state != JobState.QUEUED]
    status.queued = [_job(e) for e in jobs if e.state == JobState.QUEUED]
    status.waiting = [_waiting(w) for w in waiting]
    failed = files.latest_with_outcome(Outcome.FAILED, Outcome.QUARANTINED)
    status.problems = list(map(_problem, _without_deleted(failed)))
    left = files.latest_with_outcome(Outcome.SKIPPED, Outcome.KEPT)
    status.uncompressed = list(map(_problem, _without_deleted(left)))
    status.paused = [printable(p) or "everything" for p in state.paused()]
    status.held = state.disk_backoff.get()
    status.totals = Totals(**asdict(files.totals()))
    status.filesystems = list(map(_filesystem, state.filesystems.get() or ()))


def _without_deleted(entries: list[Entry]) -> list[Entry]:
    """Leaves out deleted files; a folder that hangs may have none of them."""
    if not entries:
        return []
    with suppress(StorageError):
        return within(ANSWER_SECONDS, lambda: [e for e in entries if not is_lost(e)])
    return entries


def _degraded(ledger: Ledger) -> list[Degraded]:
    """As the daemon reported them; a killed daemon's report is out of date."""
    return [
        Degraded(**asdict(root) | {"path": printable(root.path)})
        for root in ledger.state.degraded.get() or ()
    ]


def _filesystem(proof: Proof) -> Filesystem:
    fields = msgspec.structs.asdict(proof) | {"point": printable(proof.point)}
    return Filesystem(**fields, commits_by=proof.way)


def _waiting(file: WaitingFile) -> Waiting:
    return Waiting(**asdict(file) | {"path": printable(file.path)})


def _schedule(config: Config) -> Schedule | None:
    hours, window = config.worker.hours, config.worker.schedule
    if hours is None or window is None:
        return None
    return Schedule(window=window, open=is_open(hours, dt.datetime.now().astimezone()))


def _job(entry: Entry) -> Job:
    return Job(
        job_id=entry.job_id,
        path=printable(entry.full_path),
        watch=entry.watch,
        bytes=entry.identity.size,
        attempts=entry.attempts,
    )


def _problem(entry: Entry) -> Problem:
    return Problem(
        **msgspec.structs.asdict(_job(entry)),
        outcome=entry.outcome or "",
        when=entry.updated,
        reason=entry.reason or "",
        message=entry.message or "",
    )
