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
from lensd.store import atomic
from lensd.store.archive import Archived, Method
from lensd.store.attributes import copy_attributes
from lensd.store.entry import Entry
from lensd.store.faults import Interrupted, disk_faults
from lensd.store.files import fsync_folder, identity_at, open_folder, open_regular
from lensd.store.identity import Identity
from lensd.store.swap import swap
from lensd.workshop import Place, Settings, Workshop


@contextmanager
def staged(place: Place, shop: Workshop) -> Iterator[None]:
    """The temporary beside the file, gone again unless it was published."""
    shop.ledger.update(place.entry.job_id, state="running", temporary=place.temporary)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with disk_faults(place.entry.root):
        fd = os.open(place.temporary, flags, 0o600, dir_fd=place.folder_fd)
    made = os.fstat(fd)
    os.close(fd)
    place.staged_inode = (made.st_dev, made.st_ino)
    try:
        yield
    except BaseException:
        _clear_away(place, shop)
        raise


def _clear_away(place: Place, shop: Workshop) -> None:
    """The staged output and the link in the archive go, unless the names were exchanged."""
    original = Identity.of(os.fstat(place.fd))
    with contextlib.suppress(LensdError, OSError):  # why it ended says more
        found = identity_at(place.folder_fd, place.temporary)
        if found is not None and found.same_inode(original):
            return
        if found is not None and found[:2] == place.staged_inode:
            os.unlink(place.temporary, dir_fd=place.folder_fd)
            fsync_folder(place.folder_fd)
        shop.archive.unlink_own(place.entry.watch, place.entry.path, original)


def dress(place: Place, numbers: dict[str, Any], settings: Settings) -> Identity:
    """Give the staged output what the original has, before anything is changed."""
    fd = open_regular(place.folder_fd, place.temporary)
    try:
        found = os.fstat(fd)
        if (found.st_dev, found.st_ino, found.st_size) != (
            *(place.staged_inode or ()), numbers["bytes_out"],
        ):  # fmt: skip
            raise Failed("verify_failed", "the staged output is not the file that the worker wrote")
        copy_attributes(place.fd, fd, preserve_mtime=settings.preserve_mtime)
        with disk_faults(place.entry.root):
            os.fsync(fd)
            fsync_folder(place.folder_fd)
        return Identity.of(os.fstat(fd))
    finally:
        os.close(fd)


def archive(place: Place, numbers: dict[str, Any], shop: Workshop) -> Archived:
    began = time.monotonic()
    if place.entry.redo:
        if place.entry.sha256_in not in (None, numbers["sha256_in"]):
            raise Failed(
                "io_error",
                f"the archived original {place.original} is not what was archived; nothing was "
                "replaced. Check that disk, and bring the original back from a backup",
            )
        archived = Archived(cast("Method", place.entry.archive_method), place.original)
    else:
        archived = shop.archive.keep(
            place.fd,
            Identity.of(os.fstat(place.fd)),
            numbers["sha256_in"],
            place.entry.watch,
            place.entry.path,
            may_link=place.lease is not None and place.lease.held,
            stop=lambda: shop.stopping.is_set() or not place.unbroken,
        )
    numbers["seconds"]["archive"] = round(time.monotonic() - began, 4)
    return archived


def publish(
    place: Place, shop: Workshop, line: dict[str, Any], output: Identity, archived: Archived
) -> None:
    """Exchange the names and part with the original; `line` is completed and logged.

    Raises Skipped(`changed`) with the newer bytes under the name, Skipped(`vanished`), Interrupted
    where lensd stops before it may part with the original (recovery does then).
    """
    entry = place.entry
    place.require_there()
    expected = Identity.of(os.fstat(place.fd))  # lensd's own link has changed the ctime
    if not expected.same_content(entry.identity):
        raise Skipped("changed", "somebody wrote to the file; it starts over")
    line |= {"archive_method": archived.method, "archive_path": archived.path}
    line |= {"lease": place.lease is not None}
    kept = {"archive_path": archived.path, "archive_method": archived.method}
    shop.ledger.update(entry.job_id, state="publishing", line=line, **kept)
    line["publish"] = atomic.publish(
        place.folder_fd,
        place.name,
        place.temporary,
        expected=expected,
        staged=output,
        unbroken=lambda: place.unbroken,
    )
    line["seconds"]["total"] = round(time.monotonic() - place.began, 4)
    named = identity_at(place.folder_fd, place.name)
    now = named if named is not None and named.same_content(output) else output
    shop.ledger.update(entry.job_id, state="published", outcome="compressed", staged=now, line=line)
    if line["publish"] == "exchange":
        _part(place, expected, shop)
    shop.ledger.replace_older(entry.root, entry.path, entry.job_id)
    announce(shop, entry.job_id, line)
    shop.ledger.finish(entry.job_id, "compressed")


def _part(place: Place, original: Identity, shop: Workshop) -> None:
    """Unlink the original that came out of the exchange, unless somebody is writing to it.

    A writer may have found the old inode before the exchange and reach it only now: the lease
    tells of it. Without a lease it may have been open all the time, so that it is looked at again.
    """
    if place.lease is None and shop.stopping.wait(shop.quiet_seconds):
        raise Interrupted
    if not place.unbroken:
        _take_back(place, shop)
    if not atomic.discard(place.folder_fd, place.temporary, original):
        rescue(shop, place.entry, place.folder_fd, place.temporary)


def _take_back(place: Place, shop: Workshop) -> None:
    """The writer's file gets its name again; the output under the temporary goes."""
    shop.ledger.update(place.entry.job_id, state="publishing", outcome=None)
    swap(place.folder_fd, place.temporary, place.name)
    fsync_folder(place.folder_fd)
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


def announce(shop: Workshop, job_id: str, line: dict[str, Any]) -> None:
    """The one canonical line of a compressed file."""
    shop.log("file.compressed", **line)
    shop.ledger.update(job_id, emitted=1)


def rescue(shop: Workshop, entry: Entry, folder_fd: int, temporary: str) -> None:
    """Bytes that are neither the staged output nor the archived original are somebody's."""
    path = shop.archive.rescue(folder_fd, temporary, entry.watch, entry.path)
    shop.log(
        "file.rescued",
        path=entry.full_path,
        watch=entry.watch,
        job_id=entry.job_id,
        rescued_path=path,
        message=f"somebody wrote to the file while it was replaced; those bytes are now {path}",
    )
