"""How a job ends without an output: what the ledger and the log say, and what is tried again."""

from __future__ import annotations

import time

from lensd.errors import DiskUnavailable, Failed, FileError, Outcome, Reason
from lensd.jobs import commit
from lensd.jobs.context import JobContext
from lensd.jobs.end_decision import BACK_OFF, Facts, Verdict, attempts_allowed, decide
from lensd.logs.events import Event, FilePostponed, FileQuarantined, file_end
from lensd.store.ledger import Columns, JobState
from lensd.store.ledger.entry import Entry
from lensd.worker.supervisor import WorkerLost


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


def io_error(error: OSError) -> Failed:
    where = f" at {error.filename}" if error.filename else ""
    return Failed(
        Reason.IO_ERROR,
        f"{error.strerror or error}{where}; the file is untouched: check rights and disk",
    )


def bug(trace: str) -> Failed:
    return Failed(
        Reason.INTERNAL, f"a bug in lensd: {trace}\nThe file is untouched; please report this"
    )


def _supersede(entry: Entry, message: str, context: JobContext) -> None:
    """The intake looks at the newer version of the file."""
    context.ledger.jobs.finish(
        entry.job_id, Outcome.SUPERSEDED, reason=Reason.CHANGED, message=message
    )
    context.hints.look(entry.full_path)


def _restart_under_new_name(entry: Entry, context: JobContext) -> None:
    if context.ledger.jobs.get(entry.job_id).state not in (JobState.QUEUED, JobState.DONE):
        # The main loop moved the row after this job began, before its last step was written.
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
