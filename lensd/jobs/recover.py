"""After a crash: each state of the ledger has one continuation. Runs before anything else changes.

A temporary is unlinked only if it is provably the staged output or the archived original. What
cannot be put right now (a full disk, somebody writing) stays for later, and is said.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable

from lensd.errors import Failed, FileError, Skipped
from lensd.jobs import commit
from lensd.jobs.context import JobContext
from lensd.jobs.rebuild import is_archived
from lensd.logs.events import FileRescued, file_end
from lensd.store import publish
from lensd.store.fs import fsync_folder, identity_at, open_folder, open_regular, temporary_name
from lensd.store.identity import Identity
from lensd.store.lease import Lease, Refusal
from lensd.store.ledger import JobState, Outcome
from lensd.store.ledger.entry import Entry
from lensd.store.swap import swap
from lensd.watcher.scan import temporaries


def recover(context: JobContext, *, tell: bool = True) -> Failed | None:
    """Finish or take back what a crash left between two steps.

    What lies in a folder that is away cannot be seen now: `continue_jobs` when it is back. What a
    disk does not allow now is told (with `tell`) and left; returns the first such fault.
    """
    if context.ledger.roots.is_empty():  # new, or lost: nothing tells where half copies may be
        context.archive.sweep()
    closed = context.root_states.closed
    return continue_jobs(context, lambda root: root not in closed, tell=tell)


def continue_jobs(
    context: JobContext, wanted: Callable[[str], bool], *, tell: bool = True
) -> Failed | None:
    """As `recover`, the jobs of the wanted roots, in which no job may be running."""
    fault = None
    under_way = [e for e in context.ledger.jobs.under_way() if wanted(e.root)]
    if under_way:
        context.archive.sweep_rescued()
    for entry in under_way:
        try:
            _recover(entry, context)
        except (FileError, OSError) as error:
            end = _end(error)
            if tell:
                _tell(context, end, entry.full_path, entry.watch, entry.job_id)
            fault = fault or (end if isinstance(end, Failed) else None)
    for entry in context.ledger.jobs.unemitted():
        if wanted(entry.root):
            _announce(entry, context)
    return fault


def rescue_strays(root: str, watch: str, *, recursive: bool, context: JobContext) -> None:
    """Temporaries that no job of the ledger knows (it was lost): kept, if not in the archive."""
    found = list(temporaries(root, recursive=recursive))
    if not found:
        return
    known = {_temporary(entry) for entry in context.ledger.jobs.unfinished()}
    strays = [path for path in found if os.path.basename(path) not in known]
    if strays:
        context.archive.sweep_rescued()
    for path in strays:
        try:
            _rescue_stray(root, watch, path, context)
        except FileNotFoundError:  # it went meanwhile
            continue
        except (FileError, OSError) as error:
            _tell(context, _end(error), os.path.join(root, path), watch, None)


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
    except (FileError, OSError):  # what cannot be compared is kept
        return False


def _end(error: FileError | OSError) -> FileError:
    if isinstance(error, FileError):
        return error
    where = f" at {error.filename}" if error.filename else ""
    return Failed("io_error", f"{error.strerror or error}{where}; check rights and disk")


def _tell(context: JobContext, end: FileError, path: str, watch: str, job_id: str | None) -> None:
    message = f"after a crash: {end}. Nothing was deleted; lensd tries again"
    context.log(file_end(end, path=path, watch=watch, job_id=job_id, message=message))


def _recover(entry: Entry, context: JobContext) -> None:
    context.archive.sweep_beside(entry.watch, entry.path)
    try:
        folder_fd = open_folder(entry.root, os.path.dirname(entry.path))
    except (FileNotFoundError, Skipped):
        if entry.state == JobState.PUBLISHED:
            _complete(entry, context)
        else:
            _begin_again(entry, context)  # the folder is gone; the job will say so
        return
    try:
        _continue(entry, folder_fd, context)
    finally:
        os.close(folder_fd)


def _continue(entry: Entry, folder_fd: int, context: JobContext) -> None:
    temporary = _temporary(entry)
    there = identity_at(folder_fd, temporary)
    if entry.state == JobState.PUBLISHED:
        _clear(entry, folder_fd, temporary, context)
        _complete(entry, context)
    elif entry.state == JobState.RUNNING or _is(there, entry.staged):
        # The names were not exchanged: the temporary is lensd's own.
        if there is not None:
            publish.discard(folder_fd, temporary, there)
        _begin_again(entry, context)
    elif entry.state == JobState.PUBLISHING:
        _publishing(entry, folder_fd, temporary, there, context)
    else:
        _clear(entry, folder_fd, temporary, context)
        _begin_again(entry, context)


def _publishing(
    entry: Entry, folder_fd: int, temporary: str, there: Identity | None, context: JobContext
) -> None:
    """The names were exchanged if the output has the one, or the original the other.

    If what came out is not the original any more, and the output is in its place, it goes back.
    """
    named = _is(identity_at(folder_fd, os.path.basename(entry.path)), entry.staged)
    if (there is None and named) or _part(entry, folder_fd, temporary, context):
        _complete(entry, context)
        return
    if named:
        swap(folder_fd, temporary, os.path.basename(entry.path))
        fsync_folder(folder_fd)
        there = identity_at(folder_fd, temporary)
    if there is not None and _is(there, entry.staged):
        publish.discard(folder_fd, temporary, there)
    else:
        _clear(entry, folder_fd, temporary, context)
    _begin_again(entry, context)


def _clear(entry: Entry, folder_fd: int, temporary: str, context: JobContext) -> None:
    """Part with the original that came out of an exchange; rescue anything else."""
    if identity_at(folder_fd, temporary) is None or _part(entry, folder_fd, temporary, context):
        return
    commit.rescue(context, entry, folder_fd, temporary)


def _part(entry: Entry, folder_fd: int, temporary: str, context: JobContext) -> bool:
    """Unlink the archived original, if that is what the temporary is and nobody writes to it."""
    there = identity_at(folder_fd, temporary)
    if there is None or entry.archive_path is None or not _is(there, entry.identity):
        return False
    fd = open_regular(folder_fd, temporary)
    try:
        lease = Lease.take(fd)
        if lease is Refusal.OPEN_WRITER:
            return False
        if not isinstance(lease, Lease):
            context.stopping.wait(_unquiet(there, entry, context.quiet_seconds))
            return publish.discard(folder_fd, temporary, there)
        with lease:
            return lease.held and publish.discard(folder_fd, temporary, there)
    finally:
        os.close(fd)


def _unquiet(there: Identity, entry: Entry, quiet: float) -> float:
    """How many of the quiet seconds after an exchange are left."""
    exchanged = max(there.ctime_ns / 1e9, entry.updated)
    return min(quiet, max(0.0, exchanged + quiet - time.time()))


def _begin_again(entry: Entry, context: JobContext) -> None:
    context.archive.remove_link(entry.watch, entry.path, entry.identity)
    context.ledger.jobs.update(entry.job_id, state=JobState.QUEUED, temporary=None, staged=None)


def _complete(entry: Entry, context: JobContext) -> None:
    with context.ledger.together():
        context.ledger.files.replace_older(entry.root, entry.path, entry.job_id)
        context.ledger.jobs.finish(entry.job_id, Outcome.COMPRESSED)


def _announce(entry: Entry, context: JobContext) -> None:
    if entry.line is not None:
        with contextlib.suppress(ValueError):  # the newer lensd that wrote the line can read it
            context.log(commit.recovered_event(entry.line))
            context.ledger.jobs.update(entry.job_id, emitted=1)


def _temporary(entry: Entry) -> str:
    return entry.temporary or temporary_name(entry.job_id)


def _is(found: Identity | None, wanted: Identity | None) -> bool:
    """The same file with the same content. Device numbers may change with a reboot."""
    return found is not None and wanted is not None and found[1:4] == wanted[1:4]
