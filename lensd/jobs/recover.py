"""After a crash, before anything else changes: finishes or repeats the jobs that it interrupted.

A temporary is unlinked only if it is provably the staged output or the archived original. What
recovery cannot put right now (a full disk, a program that writes) it reports, and leaves for later.
"""

from __future__ import annotations

import contextlib
import os
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator

from lensd.errors import DiskUnavailable, Failed, FileError, Reason, StorageError, bug
from lensd.jobs import commit, restoring
from lensd.jobs.archive_check import hold_archive
from lensd.jobs.archived import is_archived
from lensd.jobs.context import JobContext
from lensd.jobs.recover_job import recover_job, temporary_of
from lensd.jobs.restoring import Restores
from lensd.logs.events import FileRescued, file_end
from lensd.store.disk_errors import Interrupted
from lensd.store.fs import fsync_folder, open_folder
from lensd.store.ledger.entry import Entry
from lensd.watcher.scan import temporaries


def recover(
    context: JobContext, *, report: bool = True, within: Collection[str] | None = None
) -> Failed | None:
    """Finish or take back what a crash left between two steps, in all roots or `within` some.

    Jobs in a closed root wait until it is back: see `continue_jobs`. What a disk does not permit
    now is left; with `report` the log has a line of it. Returns the first such fault. Raises
    DiskUnavailable if the archive is away.
    """
    if context.ledger.roots.is_empty():  # new, or lost: half copies may be anywhere in the archive
        context.archive.sweeper.sweep()
    closed = context.root_states.closed

    def is_wanted(root: str) -> bool:
        return root not in closed and (within is None or root in within)

    return continue_jobs(context, is_wanted, report=report)


def continue_restores(
    context: JobContext, wanted: Callable[[str], bool], *, report: bool = True
) -> Failed | None:
    """Complete or take back the restores that a crash cut off, as `continue_jobs`."""
    fault = None
    restores = Restores(context.ledger, context.archive, context.log, context.quiet_seconds)
    for note, entry in list(restores.under_way()):
        if wanted(entry.root):
            try:
                restores.finish(note, context.stopping.is_set)
            except Interrupted:
                break
            except (FileError, StorageError, OSError) as error:
                end = _to_file_error(error)
                if report:
                    _report(context, end, entry.full_path, entry.watch, entry.job_id)
                fault = fault or (end if isinstance(end, Failed) else None)
    return fault


def continue_jobs(
    context: JobContext, wanted: Callable[[str], bool], *, report: bool = True
) -> Failed | None:
    """As `recover`, for the wanted roots. Leaves the jobs that are running.

    Raises DiskUnavailable if the archive is away and there is such a job.
    """
    fault = continue_restores(context, wanted, report=report)
    under_way = [e for e in context.interrupted_jobs() if wanted(e.root)]
    if under_way:
        with hold_archive(context.archive, context.ledger):
            context.archive.sweeper.sweep_rescued()
            in_jobs = _recover_jobs(under_way, context, report=report)
        fault = fault or in_jobs
    for entry in context.ledger.jobs.unemitted():
        if wanted(entry.root):
            _announce(entry, context)
    return fault


def _recover_jobs(
    under_way: Iterable[Entry], context: JobContext, *, report: bool
) -> Failed | None:
    fault = None
    for entry in under_way:
        try:
            recover_job(entry, context)
        except Interrupted:
            break
        except StorageError:
            raise
        except Exception as error:  # noqa: BLE001  one job must not end each start
            end = _to_file_error(error)
            if report:
                _report(context, end, entry.full_path, entry.watch, entry.job_id)
            if isinstance(end, Failed) and end.reason != Reason.INTERNAL:
                fault = fault or end
    return fault


def rescue_strays(root: str, watch: str, *, recursive: bool, context: JobContext) -> None:
    """Move temporaries of no unfinished job to `rescued/`; unlink archived originals.

    The ledger that knew them was lost, or their folder was renamed before lensd was killed.
    """
    found = list(temporaries(root, recursive=recursive))
    if not found:
        return
    known = set(_expected_temporaries(root, context))
    strays = [path for path in found if path not in known]
    if not strays:
        return
    try:
        with hold_archive(context.archive, context.ledger):
            context.archive.sweeper.sweep_rescued()
            for path in strays:
                _try_to_rescue(root, watch, path, context)
    except DiskUnavailable as away:
        end = _to_file_error(away)
        _report(context, end, os.path.join(root, strays[0]), watch, None)


def _expected_temporaries(root: str, context: JobContext) -> Iterator[str]:
    """The relative paths of the temporaries of unfinished jobs and restores in a root."""
    for entry in context.ledger.jobs.unfinished():
        if entry.root == root:
            yield os.path.join(os.path.dirname(entry.path), temporary_of(entry))
    for note in context.ledger.state.restoring.get() or ():
        entry = context.ledger.jobs.get(note.job_id)
        if entry.root == root:
            yield os.path.join(os.path.dirname(entry.path), restoring.temporary_of(note))


def _try_to_rescue(root: str, watch: str, path: str, context: JobContext) -> None:
    try:
        _rescue_stray(root, watch, path, context)
    except FileNotFoundError:  # another program removed it meanwhile
        return
    except (FileError, OSError) as error:
        _report(context, _to_file_error(error), os.path.join(root, path), watch, None)


def _rescue_stray(root: str, watch: str, path: str, context: JobContext) -> None:
    folder, name = os.path.split(path)
    folder_fd = open_folder(root, folder)
    try:
        if _is_archived(folder_fd, name, context, watch, folder):
            os.unlink(name, dir_fd=folder_fd)
            fsync_folder(folder_fd)
            return
        stray = context.archive.rescuer.move(folder_fd, name, watch, path)
    finally:
        os.close(folder_fd)
    context.log(
        FileRescued(
            path=os.path.join(root, path),
            watch=watch,
            job_id=None,
            rescued_path=stray,
            message=f"a temporary that the ledger does not know; it is now {stray}. Delete it if "
            "nothing is missing",
        )
    )


def _is_archived(folder_fd: int, name: str, context: JobContext, watch: str, folder: str) -> bool:
    try:
        return is_archived(folder_fd, name, context.archive, watch, folder)
    except (FileError, OSError):  # keep what cannot be compared
        return False


def _to_file_error(error: Exception) -> FileError:
    if isinstance(error, FileError):
        return error
    if isinstance(error, StorageError):
        return Failed(Reason.IO_ERROR, str(error), disk=error.path)
    if not isinstance(error, OSError):
        return bug("".join(traceback.format_exception(error, limit=-8)))
    where = f" at {error.filename}" if error.filename else ""
    return Failed(Reason.IO_ERROR, f"{error.strerror or error}{where}; check rights and disk")


def _report(context: JobContext, end: FileError, path: str, watch: str, job_id: str | None) -> None:
    has_retry = context.patient and job_id is not None  # `recover_later`
    again = "lensd tries again" if has_retry else "the next start tries again"
    message = f"after a crash: {end}. Nothing was deleted; {again}"
    context.log(file_end(end, path=path, watch=watch, job_id=job_id, message=message))


def _announce(entry: Entry, context: JobContext) -> None:
    if entry.line is not None:
        with contextlib.suppress(ValueError):  # the newer lensd that wrote the line can read it
            context.log(commit.recovered_event(entry.line))
            context.ledger.jobs.update(entry.job_id, emitted=1)
