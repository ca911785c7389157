"""How a job ends without an output: what the ledger and the log say, and what is tried again."""

from __future__ import annotations

import contextlib
import errno
import sqlite3
import time

from lensd.errors import DiskUnavailable, Failed, FileError, Outcome, Reason, Skipped, bug
from lensd.jobs import commit
from lensd.jobs.context import JobContext
from lensd.jobs.end_decision import BACK_OFF, Facts, Verdict, attempts_allowed, decide
from lensd.jobs.explained import immutable
from lensd.logs.events import Event, FilePostponed, FileQuarantined, file_end
from lensd.store.disk_errors import fault_of
from lensd.store.ledger import Columns, JobState
from lensd.store.ledger.entry import Entry
from lensd.worker.workers import WorkerLost

# Errors of a network disk, or of a machine at its limits: the job is tried again.
_PASSING = (
    errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EMFILE, errno.ENFILE, errno.ENOMEM,
    errno.EAGAIN,
)  # fmt: skip
_BEFORE_PUBLISHING = (JobState.QUEUED, JobState.RUNNING, JobState.STAGED)


def finish(entry: Entry, error: FileError, context: JobContext) -> Event | None:
    """Record a file's end other than success. Returns its event, None if the job continues.

    Raises DiskUnavailable if the job waits for a disk.
    """
    verdict = decide(_facts(entry, error, context))
    match verdict:
        case Verdict.LEAVE:
            return None
        case Verdict.COMPLETE_LATER:
            raise DiskUnavailable(error.reason, error.disk or entry.root, str(error))
        case Verdict.FOLLOW:
            _restart_under_new_name(entry, context)
            return None
        case Verdict.SUPERSEDE:
            _supersede(entry, str(error), context)
            return None
        case Verdict.WAIT_FOR_DISK:
            context.ledger.jobs.update(entry.job_id, state=JobState.QUEUED)
            raise DiskUnavailable(error.reason, error.disk or entry.root, str(error))
        case Verdict.POSTPONE:
            _postpone(entry, error, context)
            return None
        case Verdict.FORGET | Verdict.RECORD:
            outcome = Outcome.SUPERSEDED if verdict is Verdict.FORGET else error.outcome
            context.ledger.jobs.finish(entry.job_id, outcome, **_columns(error))
            event = file_end(error, path=entry.full_path, watch=entry.watch, job_id=entry.job_id)
            context.log(event)
            return event


def _facts(entry: Entry, error: FileError, context: JobContext) -> Facts:
    now = context.ledger.jobs.get(entry.job_id)
    is_away = context.root_states.must_wait(entry.root)
    return Facts(
        error.reason,
        is_folder_away=is_away,
        has_ended=now.state == JobState.DONE,
        is_published=not is_away
        and _is_published(now),  # do not open a folder on a disk that hangs
        has_moved=lambda: context.move_tracker.search(entry),
        is_redo=entry.redo,
        is_disk_error=error.disk is not None,
        retries=entry.retries,
        waits_for_disks=context.patient,
    )


def _columns(error: FileError) -> Columns:
    """What the ledger keeps of an error, and of what was measured before it."""
    columns = Columns(reason=error.reason, message=str(error))
    if error.measures.sha256_in is not None:
        columns["sha256_in"] = error.measures.sha256_in
    if error.measures.bytes_in is not None:
        columns["bytes_in"] = error.measures.bytes_in
    return columns


def count_attempt(entry: Entry, lost: WorkerLost, context: JobContext) -> Event | None:
    """The worker died: after some attempts the file is set aside, so that others can go on."""
    attempts = entry.attempts + 1
    if attempts < attempts_allowed(lost.reason):
        context.ledger.jobs.update(entry.job_id, state=JobState.QUEUED, attempts=attempts)
        return None
    message = (
        f"{lost}, {attempts} times on this file; it is left as it is. `lensd retry` tries again, "
        "and so does a new version of lensd"
    )
    context.ledger.jobs.finish(
        entry.job_id, Outcome.QUARANTINED, attempts=attempts, reason=lost.reason, message=message
    )
    event = FileQuarantined(
        path=entry.full_path,
        watch=entry.watch,
        job_id=entry.job_id,
        reason=lost.reason,
        message=message,
        attempts=attempts,
    )
    context.log(event)
    return event


def abandon(entry: Entry, context: JobContext) -> None:
    """lensd is stopping, or a program opened the file for writing: the job begins again."""
    if _is_published(context.ledger.jobs.get(entry.job_id)):
        return  # only the original is left to unlink; the next start does that
    if context.stopping.is_set():
        context.ledger.jobs.update(entry.job_id, state=JobState.QUEUED)
        return
    _supersede(entry, "another program wrote to the file", context)


def io_error(error: OSError, path: str) -> Failed | Skipped:
    """The end of a job whose steps met an error of the system."""
    if error.errno == errno.EPERM:
        return immutable(path)
    where = f" at {error.filename}" if error.filename else ""
    return fault_of(error, path) or Failed(
        Reason.IO_ERROR,
        f"{error.strerror or error}{where}; the file is untouched: check rights and disk",
        disk=path if error.errno in _PASSING else None,
    )


def record_bug(entry: Entry, trace: str, context: JobContext) -> Event:
    """The last resort, where `finish` itself raised: the queue must get past the job.

    A job whose output may be in place keeps its state, and recovery completes it. Where the ledger
    refuses the row, the next start tries again.
    """
    error = bug(trace)
    context.given_up.add(entry.job_id)
    with contextlib.suppress(sqlite3.Error, ValueError, LookupError, OverflowError):
        if context.ledger.jobs.get(entry.job_id).state in _BEFORE_PUBLISHING:
            context.ledger.jobs.finish(
                entry.job_id, Outcome.FAILED, reason=error.reason, message=str(error)
            )
    event = file_end(error, path=entry.full_path, watch=entry.watch, job_id=entry.job_id)
    context.log(event)
    return event


def _supersede(entry: Entry, message: str, context: JobContext) -> None:
    """The intake looks at the newer version of the file."""
    context.ledger.jobs.finish(
        entry.job_id, Outcome.SUPERSEDED, reason=Reason.CHANGED, message=message
    )
    context.hints.look(entry.full_path)


def _restart_under_new_name(entry: Entry, context: JobContext) -> None:
    if context.ledger.jobs.get(entry.job_id).state not in (JobState.QUEUED, JobState.DONE):
        # Another thread moved the row after this job began, before its last step was written.
        context.ledger.jobs.update(entry.job_id, state=JobState.QUEUED, temporary=None, staged=None)
    context.hints.look(entry.full_path)  # another file may have its old name


def _postpone(entry: Entry, error: FileError, context: JobContext) -> None:
    """Queue the job again, for a later time."""
    delay = BACK_OFF[entry.retries]
    context.ledger.jobs.postpone(entry.job_id, time.time() + delay, error.reason, str(error))
    context.log(
        FilePostponed(
            path=entry.full_path,
            watch=entry.watch,
            job_id=entry.job_id,
            reason=error.reason,
            message=f"{error}; lensd tries again in {delay:g} s",
            retry_seconds=delay,
        )
    )


def _is_published(now: Entry) -> bool:
    """Whether the output has its name already, so that a restart completes the job."""
    return now.state == JobState.PUBLISHED or (
        now.state == JobState.PUBLISHING and commit.is_in_place(now)
    )
