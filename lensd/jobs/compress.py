"""One settled file to its outcome: compute, archive, publish, log.

A job is a generator: it yields a Task for a worker process, is sent the answer or thrown the
exception that ends the task, and returns. While it waits, its file, lease and archive stay open,
and the thread that runs it takes other jobs.

The read lease is taken before the worker reads and kept until the commit ends. So the worker's
hash stays true, and a program that opens the file for writing ends the job and keeps its file.
"""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable, Generator
from typing import Literal, TypeAlias

from msgspec import structs

from lensd.errors import FileError, Kept, Outcome, Reason, StorageError, bug
from lensd.jobs import commit, job_end, replaced
from lensd.jobs.archive_check import hold_archive
from lensd.jobs.context import JobContext, JobFile, Settings, open_job_file
from lensd.logs.events import (
    AnalyzedSeconds,
    CompressedSeconds,
    Event,
    FileAnalyzed,
    FileCompressed,
)
from lensd.logs.measures import Analyzed, Compressed
from lensd.store.archive import Archived
from lensd.store.disk_errors import Interrupted
from lensd.store.fs import identity_at
from lensd.store.identity import Identity
from lensd.store.ledger import JobState
from lensd.store.ledger.entry import Entry
from lensd.store.staging import Inode
from lensd.watcher.own_output import name_in_marks
from lensd.worker.request import (
    AnalyzeRequest,
    AnalyzeResult,
    Bug,
    CompressRequest,
    CompressResult,
    Refused,
)
from lensd.worker.workers import Abandoned, End, Task, WorkerLost

# Returns the event of the job's end, None if the job goes on.
Job: TypeAlias = Generator[Task, End, Event | None]


def process(entry: Entry, settings: Settings, context: JobContext, waited: float) -> Job:
    """Bring one queued job to its end.

    `waited` is how many seconds ago the file was first noticed. Raises DiskUnavailable where lensd
    waits for a disk, StorageError for the ledger's or the archive's disk.
    """
    try:
        return (yield from _process(entry, settings, context, waited))
    except StorageError:
        raise
    except Exception:  # noqa: BLE001  not even a bug in the end of a job may end the daemon
        return job_end.record_bug(entry, traceback.format_exc(limit=-8), context)


def _process(entry: Entry, settings: Settings, context: JobContext, waited: float) -> Job:
    try:
        with open_job_file(entry, context, waited) as job_file:
            return (yield from _run(job_file, settings, context))
    except (Abandoned, Interrupted):
        job_end.abandon(entry, context)
        return None
    except WorkerLost as lost:
        return job_end.count_attempt(entry, lost, context)
    except FileError as error:
        return job_end.finish(entry, error, context)
    except StorageError:
        raise  # the ledger cannot be written, or no original can be archived
    except OSError as error:
        return job_end.finish(entry, job_end.io_error(error, entry.full_path), context)
    except Exception:  # noqa: BLE001  a bug must not end the daemon for all other files
        return job_end.finish(entry, bug(traceback.format_exc(limit=-8)), context)


def _run(job_file: JobFile, settings: Settings, context: JobContext) -> Generator[Task, End, Event]:
    entry, mode = job_file.entry, settings.mode
    if mode == "analyze":
        return (yield from _analyze(job_file, settings, context))
    with (
        hold_archive(context.archive, context.ledger, job_file.folder_fd),
        commit.staged(job_file, context) as inode,
    ):
        measured = yield from _request_output(job_file, inode, settings, context)
        _check_returned(entry, measured.sha256_in, context)
        output = commit.complete_output(job_file, inode, measured.bytes_out, settings)
        context.ledger.jobs.update(
            entry.job_id,
            state=JobState.STAGED,
            staged=output,
            sha256_in=measured.sha256_in,
            sha256_out=measured.sha256_out,
            bytes_in=measured.bytes_in,
            bytes_out=measured.bytes_out,
        )
        began = time.monotonic()
        archived = commit.archive(job_file, measured.sha256_in, context)
        archive_seconds = round(time.monotonic() - began, 4)
        if entry.redo:
            replaced.keep_unknown_output(job_file, context)
        event = _compressed(job_file, mode, measured, archived, archive_seconds)
        return commit.publish(job_file, context, event, output)


def _analyze(
    job_file: JobFile, settings: Settings, context: JobContext
) -> Generator[Task, End, Event]:
    measured = yield from _request_analysis(job_file, settings, context)
    event = _analyzed(job_file, measured)
    context.ledger.jobs.finish(
        event.job_id,
        Outcome.ANALYZED,
        line=commit.ledger_line(event),
        sha256_in=event.sha256_in,
        bytes_in=event.bytes_in,
    )
    context.log(event)
    return event


def _request_output(
    job_file: JobFile, inode: Inode, settings: Settings, context: JobContext
) -> Generator[Task, End, Compressed]:
    """Let the worker fill the staged output. Raises the FileError with which that ended."""
    folder = os.path.dirname(job_file.entry.full_path)
    request = CompressRequest(
        job_id=job_file.entry.job_id,
        path=job_file.original,
        identity=_identity(job_file),
        name=name_in_marks(job_file.name),
        parameters=settings.parameters(),
        device=context.device,
        temporary=os.path.join(folder, job_file.temporary),
        temporary_inode=inode,
        min_saving=settings.min_saving,
        max_error=settings.max_error,
        adapter_config=identity_at(job_file.folder_fd, "adapter_config.json") is not None,
    )
    give_up = _give_up(job_file, context)
    answer = yield Task(request, give_up)
    if isinstance(answer, CompressResult):
        commit.require_true_answer(job_file, answer, give_up)
        return answer.measures
    raise _refusal(answer)


def _request_analysis(
    job_file: JobFile, settings: Settings, context: JobContext
) -> Generator[Task, End, Analyzed]:
    """Let the worker measure the file. Raises the FileError with which that ended."""
    request = AnalyzeRequest(
        job_id=job_file.entry.job_id,
        path=job_file.original,
        identity=_identity(job_file),
        name=name_in_marks(job_file.name),
        parameters=settings.parameters(),
        device=context.device,
    )
    answer = yield Task(request, _give_up(job_file, context))
    if isinstance(answer, AnalyzeResult):
        return answer.measures
    raise _refusal(answer)


def _give_up(job_file: JobFile, context: JobContext) -> Callable[[], bool]:
    return lambda: context.stopping.is_set() or not job_file.unbroken


def _identity(job_file: JobFile) -> Identity:
    """The file that is open here: the name may belong to another one when the worker opens it."""
    if job_file.entry.redo:
        return Identity.of(os.lstat(job_file.original))
    return Identity.of(os.fstat(job_file.fd))


def _refusal(answer: End) -> FileError:
    """The error that the worker raised."""
    if isinstance(answer, Refused):
        return answer.to_error()
    return bug(answer.traceback if isinstance(answer, Bug) else f"another answer: {answer}")


def _check_returned(entry: Entry, sha256: str, context: JobContext) -> None:
    """Raises Kept where a program copies the original back each time."""
    if entry.redo or context.ledger.originals.count_published(entry.root, entry.path, sha256) < 2:
        return
    raise Kept(
        Reason.RETURNED,
        "the same original came back for the third time, so some program syncs it here; it stays. "
        "Let that program ignore this file or sync one way only, then `lensd once --redo`",
    )


def _compressed(
    job_file: JobFile,
    mode: Literal["rank", "int8", "ultra"],
    measured: Compressed,
    archived: Archived,
    archive_seconds: float,
) -> FileCompressed:
    """The event, as far as it is known before the names are exchanged."""
    entry = job_file.entry
    seconds = structs.asdict(measured.seconds) | {
        "wait": round(job_file.waited, 4),
        "archive": archive_seconds,
        "total": _seconds_so_far(job_file),
    }
    fields = structs.asdict(measured) | {"seconds": CompressedSeconds(**seconds)}
    return FileCompressed(
        **fields,
        path=entry.full_path,
        watch=entry.watch,
        job_id=entry.job_id,
        mode=mode,
        ratio=round(measured.bytes_in / measured.bytes_out, 4),
        archive_method=archived.method,
        archive_path=archived.path,
        lease=job_file.lease is not None,
    )


def _analyzed(job_file: JobFile, measured: Analyzed) -> FileAnalyzed:
    entry = job_file.entry
    seconds = structs.asdict(measured.seconds) | {
        "wait": round(job_file.waited, 4),
        "total": _seconds_so_far(job_file),
    }
    fields = structs.asdict(measured) | {"seconds": AnalyzedSeconds(**seconds)}
    return FileAnalyzed(
        **fields,
        path=entry.full_path,
        watch=entry.watch,
        job_id=entry.job_id,
        mode="analyze",
    )


def _seconds_so_far(job_file: JobFile) -> float:
    return round(time.monotonic() - job_file.began, 4)
