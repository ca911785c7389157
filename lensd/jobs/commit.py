"""The commit of a job: archive the original, exchange the names, unlink the original.

The order is that of docs/design.md's invariants. The ledger has each step before it is taken.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import msgspec
from msgspec import structs

from lensd.errors import Failed, LensdError, Outcome, Reason, Skipped
from lensd.jobs.context import JobContext, JobFile, Settings
from lensd.jobs.replaced import find_replaced
from lensd.jobs.rescued import rescue_written
from lensd.logs.events import FileAnalyzed, FileCompressed
from lensd.logs.json_line import Fields
from lensd.store import publish as store_publish
from lensd.store import staging
from lensd.store.archive import Archived, Method
from lensd.store.attributes import copy_attributes, is_protected
from lensd.store.disk_errors import Interrupted, disk_faults
from lensd.store.filesystem import enforces_leases
from lensd.store.fs import (
    fsync_folder,
    identity_at,
    new_token,
    open_folder,
    open_original,
    open_regular,
    temporary_name,
)
from lensd.store.hashing import sha256_of
from lensd.store.identity import Identity
from lensd.store.ledger import JobState
from lensd.store.ledger.entry import Entry
from lensd.store.probe import Way
from lensd.store.staging import Inode
from lensd.store.swap import swap
from lensd.worker.request import CompressResult
from lensd.worker.workers import WorkerLost


@contextmanager
def staged(job_file: JobFile, context: JobContext) -> Iterator[Inode]:
    """Create the temporary beside the file; remove it if the block does not publish it."""
    try:
        fd = _create_staged(job_file, context)
    except FileExistsError:  # a disk kept that of an earlier attempt; a later start rescues it
        job_file.temporary = temporary_name(f"{job_file.entry.job_id}-{new_token()}")
        fd = _create_staged(job_file, context)
    inode = staging.inode_of(fd)
    os.close(fd)
    try:
        yield inode
    except BaseException as error:
        _remove_staged(job_file, inode, context)
        is_denied = isinstance(error, OSError) and error.errno == errno.EPERM
        if is_denied or is_protected(job_file.fd):
            _remove_copy(job_file, context)
        raise


def _create_staged(job_file: JobFile, context: JobContext) -> int:
    context.ledger.jobs.update(
        job_file.entry.job_id, state=JobState.RUNNING, temporary=job_file.temporary
    )
    with disk_faults(job_file.entry.root):
        return staging.create(job_file.folder_fd, job_file.temporary)


def _remove_staged(job_file: JobFile, inode: Inode, context: JobContext) -> None:
    """Remove the staged output and the link in the archive, unless the names were exchanged."""
    original = Identity.of(os.fstat(job_file.fd))
    with contextlib.suppress(LensdError, OSError):  # the error that ended the job says more
        found = identity_at(job_file.folder_fd, job_file.temporary)
        if found is not None and found.same_inode(original):
            return
        staging.remove(job_file.folder_fd, job_file.temporary, inode)
        context.archive.remover.remove_link(job_file.entry.watch, job_file.entry.path, original)


def _remove_copy(job_file: JobFile, context: JobContext) -> None:
    """Remove the archived copy of an original that stays: the kernel does not let lensd replace it.

    Not a copy that another row names, and only while the original is under its name, unchanged.
    """
    entry = context.ledger.jobs.get(job_file.entry.job_id)
    path = entry.archive_path
    if path is None or entry.redo or entry.state != JobState.PUBLISHING:
        return
    others = [e for e in context.ledger.originals.at(path) if e.job_id != entry.job_id]
    with contextlib.suppress(LensdError, OSError):
        named = identity_at(job_file.folder_fd, job_file.name)
        if not others and named is not None and named.same_content(entry.identity):
            if context.archive.originals.has(path) and job_file.unbroken:
                context.archive.remover.remove(path)
            context.ledger.jobs.update(entry.job_id, archive_path=None, archive_method=None)


def require_true_answer(
    job_file: JobFile, answer: CompressResult, stop: Callable[[], bool]
) -> None:
    """Hash the staged output and the original, if another machine computed the answer.

    Raises WorkerLost(`wrong_answer`) where the hashes are not those of the answer, Interrupted.
    """
    if answer.host is None:
        return
    fd = open_regular(job_file.folder_fd, job_file.temporary)
    try:
        output = sha256_of(fd, drop_cache=True, stop=stop)
    finally:
        os.close(fd)
    fd = open_original(job_file.original)
    try:
        original = sha256_of(fd, stop=stop)
    finally:
        os.close(fd)
    measures = answer.measures
    if (original, output) != (measures.sha256_in, measures.sha256_out):
        which = "the output" if original == measures.sha256_in else "the original"
        raise WorkerLost(
            Reason.WRONG_ANSWER,
            f"the worker {answer.host} of the cluster gave a wrong sha256 of {which}",
        )


def complete_output(job_file: JobFile, inode: Inode, size: int, settings: Settings) -> Identity:
    """Give the staged output of `size` bytes the original's attributes, before the exchange.

    Raises Failed(`verify_failed`) if it is not the file that the worker wrote, Skipped(`owner`).
    """
    fd = open_regular(job_file.folder_fd, job_file.temporary)
    try:
        found = os.fstat(fd)
        if (found.st_dev, found.st_ino, found.st_size) != (*inode, size):
            raise Failed(
                Reason.VERIFY_FAILED, "the staged output is not the file that the worker wrote"
            )
        copy_attributes(job_file.fd, fd, preserve_mtime=settings.preserve_mtime)
        with disk_faults(job_file.entry.root):
            os.fsync(fd)
            fsync_folder(job_file.folder_fd)
        return Identity.of(os.fstat(fd))
    finally:
        os.close(fd)


def archive(job_file: JobFile, sha256: str, context: JobContext) -> Archived:
    """Keep the original, which has this hash. With `redo` it is in the archive already."""
    entry = job_file.entry
    if not entry.redo:
        return context.archive.keeper.keep(
            job_file.fd,
            Identity.of(os.fstat(job_file.fd)),
            sha256,
            entry.watch,
            entry.path,
            may_link=job_file.lease is not None and job_file.lease.held,
            stop=lambda: context.stopping.is_set() or not job_file.unbroken,
        )
    context.archive.open_root.require_there()
    if entry.sha256_in not in (None, sha256):
        raise Failed(
            Reason.IO_ERROR,
            f"the archived original {job_file.original} is not the file that was archived; "
            "nothing was replaced. Check that disk, and copy the original back from a backup",
        )
    return Archived(cast("Method", entry.archive_method), job_file.original)


def publish(
    job_file: JobFile, context: JobContext, event: FileCompressed, output: Identity
) -> FileCompressed:
    """Exchange the names, unlink the original, and log the event, which is completed and returned.

    Raises Skipped(`changed`) with the newer bytes under the name, Skipped(`vanished`), Interrupted
    where lensd stops before it may unlink the original (recovery does that then).
    """
    entry = job_file.entry
    way = _way(job_file, context)
    expected = _require_untouched(job_file, way, context)
    context.ledger.jobs.update(
        entry.job_id,
        state=JobState.PUBLISHING,
        line=ledger_line(event),
        archive_path=event.archive_path,
        archive_method=event.archive_method,
    )
    published = store_publish.publish(
        job_file.folder_fd,
        job_file.name,
        job_file.temporary,
        expected=expected,
        staged=output,
        unbroken=lambda: job_file.unbroken,
        way=way,
    )
    total = round(time.monotonic() - job_file.began, 4)
    seconds = structs.replace(event.seconds, total=total)
    event = structs.replace(event, publish=published, seconds=seconds)
    _record_published(job_file, context, event, output)
    if published != "rename":
        _unlink_original(job_file, expected, context)
    context.log(event)
    with context.ledger.together():  # a crash before this commit repeats the line as `recovered`
        context.ledger.files.replace_older(entry.root, entry.path, entry.job_id)
        context.ledger.jobs.finish(entry.job_id, Outcome.COMPRESSED, emitted=1)
    return event


def _record_published(
    job_file: JobFile, context: JobContext, event: FileCompressed, output: Identity
) -> None:
    """The output has its name; the exchange may have changed its ctime."""
    named = identity_at(job_file.folder_fd, job_file.name)
    now = named if named is not None and named.same_content(output) else output
    context.ledger.jobs.update(
        job_file.entry.job_id,
        state=JobState.PUBLISHED,
        outcome=Outcome.COMPRESSED,
        staged=now,
        line=ledger_line(event),
    )


def _way(job_file: JobFile, context: JobContext) -> Way | None:
    """How the names are exchanged: by the proof of the filesystem, if it enforces no leases."""
    if job_file.lease is not None or enforces_leases(job_file.folder_fd):
        if context.filesystems.has_unknown:
            context.filesystems.of(job_file.folder_fd)
        return "exchange"
    return context.filesystems.of(job_file.folder_fd).way


def _require_untouched(job_file: JobFile, way: Way | None, context: JobContext) -> Identity:
    """The identity of the file that the job replaces. Raises Skipped(`changed` | `vanished`).

    A rename unlinks the original, so that no look is possible afterwards: the quiet time and the
    look at the bytes come before it.
    """
    is_same = True
    if way == "rename":
        if context.stopping.wait(context.quiet_seconds):
            raise Interrupted
        is_same = _has_known_bytes(job_file, job_file.name, context)
    job_file.require_there()
    found = Identity.of(os.fstat(job_file.fd))  # lensd's own link has changed the ctime
    if not is_same or not found.same_content(job_file.entry.identity):
        raise Skipped(Reason.CHANGED, "another program wrote to the file; it starts over")
    return found


def _unlink_original(job_file: JobFile, original: Identity, context: JobContext) -> None:
    """Unlink the original that came out of the exchange, unless another program writes to it.

    A program may have opened the old inode before the exchange and write to it only now: the lease
    shows that. Without a lease the file may have been open all the time, so lensd waits for the
    quiet time, and compares the bytes as well: its times may be those of a cache.
    """
    if job_file.lease is None and context.stopping.wait(context.quiet_seconds):
        raise Interrupted
    if not job_file.unbroken:
        _undo_exchange(job_file, context)
    is_safe = job_file.lease is not None or _has_known_bytes(job_file, job_file.temporary, context)
    if not is_safe or not store_publish.discard(job_file.folder_fd, job_file.temporary, original):
        rescue(context, job_file.entry, job_file.folder_fd, job_file.temporary)


def _has_known_bytes(job_file: JobFile, name: str, context: JobContext) -> bool:
    """Whether the file that this job replaces, under its present name, still has its bytes."""
    known = find_replaced(context.ledger, context.ledger.jobs.get(job_file.entry.job_id))
    if job_file.kept is not None:
        known.add(job_file.kept)
    return store_publish.has_bytes(job_file.folder_fd, name, known, context.stopping.is_set)


def _undo_exchange(job_file: JobFile, context: JobContext) -> None:
    """Give the file that is being written its name again. Always raises Skipped(`changed`)."""
    context.ledger.jobs.update(job_file.entry.job_id, state=JobState.PUBLISHING, outcome=None)
    swap(job_file.folder_fd, job_file.temporary, job_file.name, "exchange")
    fsync_folder(job_file.folder_fd)
    raise Skipped(Reason.CHANGED, "a program opened the file for writing; it starts over")


def is_in_place(entry: Entry) -> bool:
    """Whether the staged output has its name: a plain rename cannot be undone."""
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


def ledger_line(event: FileCompressed | FileAnalyzed) -> Fields:
    """The event's fields, as the ledger keeps them for a report, or for a start after a crash."""
    fields: Fields = msgspec.to_builtins(event)
    del fields["event"]
    return fields


def recovered_event(line: Mapping[str, Any]) -> FileCompressed:
    """The event that a crash kept from the log.

    Raises ValueError for a line that lacks fields of today: a newer version of lensd wrote it.
    """
    try:
        return msgspec.convert({"publish": "exchange", **line, "recovered": True}, FileCompressed)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from error


def rescue(context: JobContext, entry: Entry, folder_fd: int, temporary: str) -> None:
    """Move bytes that are neither the staged output nor the archived original to the archive."""
    rescue_written(context.archive, context.log, entry, folder_fd, temporary, "replaced it")
