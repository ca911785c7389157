"""The commit: archive the original, exchange the names, part with what came out.

The order is that of docs/design.md's invariants. Each step is in the ledger before it is taken.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from lensd.errors import Failed, LensdError, Skipped
from lensd.jobs.context import JobContext, JobFile, Settings
from lensd.store import publish as store_publish
from lensd.store import staging
from lensd.store.archive import Archived, Method
from lensd.store.attributes import copy_attributes
from lensd.store.disk_errors import Interrupted, disk_faults
from lensd.store.fs import fsync_folder, identity_at, open_folder, open_regular
from lensd.store.identity import Identity
from lensd.store.ledger import JobState, Outcome
from lensd.store.ledger.entry import Entry
from lensd.store.swap import swap


@contextmanager
def staged(job_file: JobFile, context: JobContext) -> Iterator[None]:
    """The temporary beside the file, gone again unless it was published."""
    context.ledger.jobs.update(
        job_file.entry.job_id, state=JobState.RUNNING, temporary=job_file.temporary
    )
    with disk_faults(job_file.entry.root):
        fd = staging.create(job_file.folder_fd, job_file.temporary)
    job_file.staged_inode = staging.inode_of(fd)
    os.close(fd)
    try:
        yield
    except BaseException:
        _clear_away(job_file, context)
        raise


def _clear_away(job_file: JobFile, context: JobContext) -> None:
    """The staged output and the link in the archive go, unless the names were exchanged."""
    original = Identity.of(os.fstat(job_file.fd))
    with contextlib.suppress(LensdError, OSError):  # why it ended says more
        found = identity_at(job_file.folder_fd, job_file.temporary)
        if found is not None and found.same_inode(original):
            return
        if job_file.staged_inode is not None:
            staging.remove(job_file.folder_fd, job_file.temporary, job_file.staged_inode)
        context.archive.remove_link(job_file.entry.watch, job_file.entry.path, original)


def dress(job_file: JobFile, numbers: dict[str, Any], settings: Settings) -> Identity:
    """Give the staged output what the original has, before anything is changed."""
    fd = open_regular(job_file.folder_fd, job_file.temporary)
    try:
        found = os.fstat(fd)
        if (found.st_dev, found.st_ino, found.st_size) != (
            *(job_file.staged_inode or ()), numbers["bytes_out"],
        ):  # fmt: skip
            raise Failed("verify_failed", "the staged output is not the file that the worker wrote")
        copy_attributes(job_file.fd, fd, preserve_mtime=settings.preserve_mtime)
        with disk_faults(job_file.entry.root):
            os.fsync(fd)
            fsync_folder(job_file.folder_fd)
        return Identity.of(os.fstat(fd))
    finally:
        os.close(fd)


def archive(job_file: JobFile, numbers: dict[str, Any], context: JobContext) -> Archived:
    began = time.monotonic()
    if job_file.entry.redo:
        if job_file.entry.sha256_in not in (None, numbers["sha256_in"]):
            raise Failed(
                "io_error",
                f"the archived original {job_file.original} is not what was archived; nothing was "
                "replaced. Check that disk, and bring the original back from a backup",
            )
        archived = Archived(cast("Method", job_file.entry.archive_method), job_file.original)
    else:
        archived = context.archive.keep(
            job_file.fd,
            Identity.of(os.fstat(job_file.fd)),
            numbers["sha256_in"],
            job_file.entry.watch,
            job_file.entry.path,
            may_link=job_file.lease is not None and job_file.lease.held,
            stop=lambda: context.stopping.is_set() or not job_file.unbroken,
        )
    numbers["seconds"]["archive"] = round(time.monotonic() - began, 4)
    return archived


def publish(
    job_file: JobFile,
    context: JobContext,
    line: dict[str, Any],
    output: Identity,
    archived: Archived,
) -> None:
    """Exchange the names and part with the original; `line` is completed and logged.

    Raises Skipped(`changed`) with the newer bytes under the name, Skipped(`vanished`), Interrupted
    where lensd stops before it may part with the original (recovery does then).
    """
    entry = job_file.entry
    job_file.require_there()
    expected = Identity.of(os.fstat(job_file.fd))  # lensd's own link has changed the ctime
    if not expected.same_content(entry.identity):
        raise Skipped("changed", "somebody wrote to the file; it starts over")
    line |= {"archive_method": archived.method, "archive_path": archived.path}
    line |= {"lease": job_file.lease is not None}
    context.ledger.jobs.update(
        entry.job_id,
        state=JobState.PUBLISHING,
        line=line,
        archive_path=archived.path,
        archive_method=archived.method,
    )
    line["publish"] = store_publish.publish(
        job_file.folder_fd,
        job_file.name,
        job_file.temporary,
        expected=expected,
        staged=output,
        unbroken=lambda: job_file.unbroken,
    )
    line["seconds"]["total"] = round(time.monotonic() - job_file.began, 4)
    named = identity_at(job_file.folder_fd, job_file.name)
    now = named if named is not None and named.same_content(output) else output
    context.ledger.jobs.update(
        entry.job_id, state=JobState.PUBLISHED, outcome=Outcome.COMPRESSED, staged=now, line=line
    )
    if line["publish"] == "exchange":
        _part(job_file, expected, context)
    context.log("file.compressed", **line)
    with context.ledger.together():  # a crash before this commit repeats the line as `recovered`
        context.ledger.files.replace_older(entry.root, entry.path, entry.job_id)
        context.ledger.jobs.finish(entry.job_id, Outcome.COMPRESSED, emitted=1)


def _part(job_file: JobFile, original: Identity, context: JobContext) -> None:
    """Unlink the original that came out of the exchange, unless somebody is writing to it.

    A writer may have found the old inode before the exchange and reach it only now: the lease
    tells of it. Without a lease it may have been open all the time, so that it is looked at again.
    """
    if job_file.lease is None and context.stopping.wait(context.quiet_seconds):
        raise Interrupted
    if not job_file.unbroken:
        _take_back(job_file, context)
    if not store_publish.discard(job_file.folder_fd, job_file.temporary, original):
        rescue(context, job_file.entry, job_file.folder_fd, job_file.temporary)


def _take_back(job_file: JobFile, context: JobContext) -> None:
    """The writer's file gets its name again; the output under the temporary goes."""
    context.ledger.jobs.update(job_file.entry.job_id, state=JobState.PUBLISHING, outcome=None)
    swap(job_file.folder_fd, job_file.temporary, job_file.name)
    fsync_folder(job_file.folder_fd)
    raise Skipped("changed", "a program opened the file for writing; it starts over")


def is_in_place(entry: Entry) -> bool:
    """Whether the staged output has its name: a plain rename cannot be taken back."""
    folder, name = os.path.split(entry.path)
    try:
        folder_fd = open_folder(entry.root, folder)
    except (OSError, Skipped):
        return False
    try:
        there = identity_at(folder_fd, name)
    finally:
        os.close(folder_fd)
    return there is not None and entry.staged is not None and there[1:4] == entry.staged[1:4]


def rescue(context: JobContext, entry: Entry, folder_fd: int, temporary: str) -> None:
    """Bytes that are neither the staged output nor the archived original are somebody's."""
    path = context.archive.rescue(folder_fd, temporary, entry.watch, entry.path)
    context.log(
        "file.rescued",
        path=entry.full_path,
        watch=entry.watch,
        job_id=entry.job_id,
        rescued_path=path,
        message=f"somebody wrote to the file while it was replaced; those bytes are now {path}",
    )
