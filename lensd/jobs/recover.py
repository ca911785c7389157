"""After a crash, before anything else changes: finishes or repeats the jobs that it interrupted.

A temporary is unlinked only if it is provably the staged output or the archived original. What
recovery cannot put right now (a full disk, a program that writes) it reports, and leaves for later.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection

from lensd.errors import Failed, FileError
from lensd.jobs import commit
from lensd.jobs.context import JobContext
from lensd.jobs.rebuild import is_archived
from lensd.jobs.recover_job import recover_job, temporary_of
from lensd.logs.events import FileRescued, file_end
from lensd.store.fs import fsync_folder, open_folder
from lensd.store.ledger.entry import Entry
from lensd.watcher.scan import temporaries


def recover(
    context: JobContext, *, report: bool = True, within: Collection[str] | None = None
) -> Failed | None:
    """Finish or take back what a crash left between two steps, in all roots or `within` some.

    Jobs in a closed root wait until it is back: see `continue_jobs`. What a disk does not permit
    now is left; with `report` the log has a line of it. Returns the first such fault.
    """
    if context.ledger.roots.is_empty():  # new, or lost: half copies may be anywhere in the archive
        context.archive.sweep()
    closed = context.root_states.closed

    def is_wanted(root: str) -> bool:
        return root not in closed and (within is None or root in within)

    return continue_jobs(context, is_wanted, report=report)


def continue_jobs(
    context: JobContext, wanted: Callable[[str], bool], *, report: bool = True
) -> Failed | None:
    """As `recover`, for the wanted roots, in which no job may be running."""
    fault = None
    under_way = [e for e in context.ledger.jobs.under_way() if wanted(e.root)]
    if under_way:
        context.archive.sweep_rescued()
    for entry in under_way:
        try:
            recover_job(entry, context)
        except (FileError, OSError) as error:
            end = _to_file_error(error)
            if report:
                _report(context, end, entry.full_path, entry.watch, entry.job_id)
            fault = fault or (end if isinstance(end, Failed) else None)
    for entry in context.ledger.jobs.unemitted():
        if wanted(entry.root):
            _announce(entry, context)
    return fault


def rescue_strays(root: str, watch: str, *, recursive: bool, context: JobContext) -> None:
    """Move temporaries that no job of the ledger knows to `rescued/`; unlink archived originals.

    The ledger that knew them was lost.
    """
    found = list(temporaries(root, recursive=recursive))
    if not found:
        return
    known = {temporary_of(entry) for entry in context.ledger.jobs.unfinished()}
    strays = [path for path in found if os.path.basename(path) not in known]
    if strays:
        context.archive.sweep_rescued()
    for path in strays:
        try:
            _rescue_stray(root, watch, path, context)
        except FileNotFoundError:  # another program removed it meanwhile
            continue
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
        stray = context.archive.rescue(folder_fd, name, watch, path)
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


def _to_file_error(error: FileError | OSError) -> FileError:
    if isinstance(error, FileError):
        return error
    where = f" at {error.filename}" if error.filename else ""
    return Failed("io_error", f"{error.strerror or error}{where}; check rights and disk")


def _report(context: JobContext, end: FileError, path: str, watch: str, job_id: str | None) -> None:
    message = f"after a crash: {end}. Nothing was deleted; lensd tries again"
    context.log(file_end(end, path=path, watch=watch, job_id=job_id, message=message))


def _announce(entry: Entry, context: JobContext) -> None:
    if entry.line is not None:
        with contextlib.suppress(ValueError):  # the newer lensd that wrote the line can read it
            context.log(commit.recovered_event(entry.line))
            context.ledger.jobs.update(entry.job_id, emitted=1)
