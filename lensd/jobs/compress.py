"""One settled file -> its outcome: compute, archive, publish, log. The way has no way back.

The read lease is taken before the worker reads and held to the end of the commit, so that the
worker's hash is the last hash, and a writer who comes meanwhile ends the job and keeps the file.
"""

from __future__ import annotations

import os
import time
import traceback
from typing import Any

from lensd.errors import DiskUnavailable, Failed, FileError, Kept, Skipped, StorageError
from lensd.jobs import commit
from lensd.jobs.archive_check import require_archive
from lensd.jobs.context import JobContext, JobFile, Settings, open_job_file
from lensd.store.disk_errors import Interrupted
from lensd.store.fs import identity_at
from lensd.store.identity import Identity
from lensd.store.ledger import JobState, Outcome
from lensd.store.ledger.entry import Entry
from lensd.worker.supervisor import Abandoned, WorkerLost

ATTEMPTS = 3
# Faults of a disk that time or somebody mends; the job waits in the queue, and all others with it.
HOLDING = ("no_space", "read_only")
# Seconds until a job that met an I/O error is tried again; after the last it has failed.
BACK_OFF = (10.0, 60.0, 300.0, 1800.0)


def process(entry: Entry, settings: Settings, context: JobContext, waited: float) -> str | None:
    """Bring one queued job to its end; returns the event of its log line, None if it goes on.

    `waited` is how many seconds ago the file was first noticed. Raises DiskUnavailable where lensd
    waits for a disk, StorageError for the ledger's or the archive's disk.
    """
    try:
        with open_job_file(entry, context, waited) as job_file:
            return _work(job_file, settings, context)
    except (Abandoned, Interrupted):
        _give_up(entry, context)
        return None
    except WorkerLost as lost:
        return _lost(entry, lost, context)
    except FileError as end:
        return _end(entry, end, context)
    except StorageError:
        raise  # nothing more can be written down, or no original be kept
    except OSError as error:
        return _end(entry, _broken(error), context)
    except Exception:  # noqa: BLE001  a bug must not end the daemon for all other files
        return _end(entry, _bug(traceback.format_exc(limit=-8)), context)


def _work(job_file: JobFile, settings: Settings, context: JobContext) -> str | None:
    entry = job_file.entry
    if settings.mode == "analyze":
        numbers = _ask(job_file, settings, context, op="analyze")
        line = _line(job_file, settings, numbers)
        context.ledger.jobs.finish(entry.job_id, Outcome.ANALYZED, line=line, **_sizes(numbers))
        context.log("file.analyzed", **line)
        return "file.analyzed"
    require_archive(context.archive, context.ledger)
    with commit.staged(job_file, context):
        numbers = _ask(job_file, settings, context, op="compress")
        _check_returned(entry, numbers["sha256_in"], context)
        output = commit.dress(job_file, numbers, settings)
        context.ledger.jobs.update(
            entry.job_id, state=JobState.STAGED, staged=output, **_sizes(numbers)
        )
        archived = commit.archive(job_file, numbers, context)
        commit.publish(job_file, context, _line(job_file, settings, numbers), output, archived)
    return "file.compressed"


def _ask(job_file: JobFile, settings: Settings, context: JobContext, *, op: str) -> dict[str, Any]:
    """Let the worker do it; a refusal comes back as the error it was raised as."""
    entry = job_file.entry
    folder = os.path.dirname(entry.full_path)
    answer = context.worker.request(
        {
            "op": op,
            "job_id": entry.job_id,
            "path": job_file.original,
            "identity": list(_identity(job_file)),
            "name": os.fsencode(job_file.name).decode("utf-8", "backslashreplace"),
            "temporary": os.path.join(folder, job_file.temporary),
            "temporary_inode": job_file.staged_inode,
            "parameters": settings.parameters(),
            "min_saving": settings.min_saving,
            "max_error": settings.max_error,
            "device": context.device,
            "adapter_config": identity_at(job_file.folder_fd, "adapter_config.json") is not None,
        },
        give_up=lambda: context.stopping.is_set() or not job_file.unbroken,
    )
    kind = answer.pop("type")
    if kind == "result":
        return answer
    if kind == "refused":
        raise _refusal(answer)
    raise _bug(answer["message"])


def _identity(job_file: JobFile) -> Identity:
    """What the worker has to find: what is open here, and not what has the name by now."""
    if job_file.entry.redo:
        return Identity.of(os.lstat(job_file.original))
    return Identity.of(os.fstat(job_file.fd))


def _refusal(answer: dict[str, Any]) -> FileError:
    kinds: dict[str, type[FileError]] = {k.event: k for k in (Kept, Skipped, Failed)}
    error = kinds[answer["event"]](answer["reason"], answer["message"])
    error.measures = answer["measures"]
    error.disk = answer["disk"]
    return error


def _sizes(numbers: dict[str, Any]) -> dict[str, Any]:
    wanted = ("sha256_in", "sha256_out", "bytes_in", "bytes_out")
    return {name: numbers[name] for name in wanted if name in numbers}


def _check_returned(entry: Entry, sha256: str, context: JobContext) -> None:
    """Something copies the original back again and again: do not fight it."""
    if entry.redo or context.ledger.originals.count_published(entry.root, entry.path, sha256) < 2:
        return
    raise Kept(
        "returned",
        "the same original came back for the third time, so some program syncs it here; it stays. "
        "Let that program ignore this file or sync one way only, then `lensd once --redo`",
    )


def _line(job_file: JobFile, settings: Settings, numbers: dict[str, Any]) -> dict[str, Any]:
    """The fields of a file.compressed or file.analyzed line."""
    total = round(time.monotonic() - job_file.began, 4)
    line = {
        "path": job_file.entry.full_path,
        "watch": job_file.entry.watch,
        "job_id": job_file.entry.job_id,
        "mode": settings.mode,
        **numbers,
        "seconds": {"wait": round(job_file.waited, 4), **numbers["seconds"], "total": total},
    }
    if "bytes_out" in numbers:
        line["ratio"] = round(numbers["bytes_in"] / numbers["bytes_out"], 4)
    return line


def _end(entry: Entry, end: FileError, context: JobContext) -> str | None:
    """A file's end other than success, or another beginning for its new version."""
    if context.root_states.must_wait(entry.root):
        return None  # no fault of the file's: recovery takes the job up when its folder is back
    if context.ledger.jobs.get(entry.job_id).state == JobState.DONE:
        return None  # what came after its end cannot change it
    if _is_published(entry, context):
        raise DiskUnavailable(end.reason, end.disk or entry.root, str(end))  # recovery completes it
    if end.reason in ("vanished", "changed") and context.move_tracker.search(entry):
        if context.ledger.jobs.get(entry.job_id).state not in (JobState.QUEUED, JobState.DONE):
            # The main loop moved it just as it began here, and before its last step was written.
            context.ledger.jobs.update(
                entry.job_id, state=JobState.QUEUED, temporary=None, staged=None
            )
        context.hints.look(entry.full_path)  # another file may have its old name
        return None
    if end.reason == "changed" and not entry.redo:  # an output would not be looked at again
        context.ledger.jobs.finish(
            entry.job_id, Outcome.SUPERSEDED, reason=end.reason, message=str(end)
        )
        context.hints.look(entry.full_path)
        return None
    if context.patient and _waits(entry, end, context):
        return None
    outcome = Outcome(end.event.removeprefix("file."))
    if end.reason == "vanished":
        outcome = Outcome.SUPERSEDED  # it may come back as it was, here or under another name
    known: dict[str, Any] = {
        k: end.measures[k] for k in ("sha256_in", "bytes_in") if k in end.measures
    }
    context.ledger.jobs.finish(entry.job_id, outcome, reason=end.reason, message=str(end), **known)
    context.log(
        end.event,
        path=entry.full_path,
        watch=entry.watch,
        job_id=entry.job_id,
        reason=end.reason,
        message=str(end),
        **end.measures,
    )
    return end.event


def _waits(entry: Entry, end: FileError, context: JobContext) -> bool:
    """Whether the job was put back in the queue. Raises DiskUnavailable for a fault of a disk."""
    if end.reason in HOLDING:
        context.ledger.jobs.update(entry.job_id, state=JobState.QUEUED)
        raise DiskUnavailable(end.reason, end.disk or entry.root, str(end))
    if end.disk is None or entry.retries >= len(BACK_OFF):
        return False  # not the disk's fault (rights, say), or tried often enough
    delay = BACK_OFF[entry.retries]
    context.ledger.jobs.postpone(entry.job_id, time.time() + delay, end.reason, str(end))
    context.log(
        "file.postponed",
        path=entry.full_path,
        watch=entry.watch,
        job_id=entry.job_id,
        reason=end.reason,
        message=f"{end}; tried again in {delay:g} s",
        retry_seconds=delay,
    )
    return True


def _lost(entry: Entry, lost: WorkerLost, context: JobContext) -> str | None:
    """The worker died: one attempt; after ATTEMPTS the file is set aside, for others to go on."""
    attempts = entry.attempts + 1
    if attempts < ATTEMPTS:
        context.ledger.jobs.update(entry.job_id, state=JobState.QUEUED, attempts=attempts)
        return None
    message = (
        f"{lost}, {attempts} times on this file; it is left as it is. `lensd retry` tries again, "
        "and so does a new version of lensd"
    )
    context.ledger.jobs.finish(
        entry.job_id, Outcome.QUARANTINED, attempts=attempts, reason=lost.reason, message=message
    )
    context.log(
        "file.quarantined",
        path=entry.full_path,
        watch=entry.watch,
        job_id=entry.job_id,
        reason=lost.reason,
        message=message,
        attempts=attempts,
    )
    return "file.quarantined"


def _give_up(entry: Entry, context: JobContext) -> None:
    """lensd is stopping, or a writer came: nothing was changed, the job begins again."""
    if _is_published(entry, context):
        return  # only the original that came out is left; the next start parts with it
    if context.stopping.is_set():
        context.ledger.jobs.update(entry.job_id, state=JobState.QUEUED)
        return
    message = "somebody wrote to the file"
    context.ledger.jobs.finish(entry.job_id, Outcome.SUPERSEDED, reason="changed", message=message)
    context.hints.look(entry.full_path)


def _is_published(entry: Entry, context: JobContext) -> bool:
    """Whether the output has its name already, so that a restart completes the job."""
    now = context.ledger.jobs.get(entry.job_id)
    return now.state == JobState.PUBLISHED or (
        now.state == JobState.PUBLISHING and commit.is_in_place(now)
    )


def _broken(error: OSError) -> Failed:
    where = f" at {error.filename}" if error.filename else ""
    return Failed(
        "io_error",
        f"{error.strerror or error}{where}; the file is untouched: check rights and disk",
    )


def _bug(trace: str) -> Failed:
    return Failed("internal", f"a bug in lensd: {trace}\nThe file is untouched; please report this")
