"""One settled file -> its outcome: compute, archive, publish, log. The way has no way back.

The read lease is taken before the worker reads and held to the end of the commit, so that the
worker's hash is the last hash, and a writer who comes meanwhile ends the job and keeps the file.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, cast

from lensd.errors import Failed, FileError, Kept, Skipped
from lensd.intake import complete
from lensd.store import atomic
from lensd.store.archive import Archive, Archived, Method
from lensd.store.attributes import copy_attributes
from lensd.store.faults import Interrupted, disk_faults
from lensd.store.files import fsync_folder, identity_at, open_folder, temporary_name
from lensd.store.identity import Identity
from lensd.store.lease import Lease, Refusal
from lensd.store.ledger import Entry, Ledger
from lensd.worker.supervisor import Abandoned, Worker, WorkerLost

ATTEMPTS = 3


class Settings(Protocol):
    """How the files of a folder are compressed (lensd.config has the model)."""

    @property
    def mode(self) -> str: ...
    @property
    def max_error(self) -> float | None: ...
    @property
    def min_saving(self) -> float: ...
    @property
    def preserve_mtime(self) -> bool: ...
    def parameters(self) -> dict[str, Any]: ...


class Log(Protocol):
    def __call__(self, event: str, **fields: Any) -> None: ...


@dataclass(slots=True)
class Workshop:
    """All that a job needs. `again(entry)` sends a path back to the intake."""

    ledger: Ledger
    archive: Archive
    worker: Worker
    log: Log
    device: str
    quiet_seconds: float
    again: Callable[[Entry], None]
    stopping: threading.Event = field(default_factory=threading.Event)


@dataclass(slots=True)
class Place:
    """A job's file while its folder is open and, if the filesystem can, its lease held."""

    entry: Entry
    folder_fd: int
    name: str
    fd: int
    lease: Lease | None
    temporary: str
    original: str  # the path to read: the file itself, or with `redo` its archived original
    waited: float  # seconds since it was first noticed
    began: float  # monotonic, when it was first noticed
    staged_inode: tuple[int, int] | None = None

    @property
    def unbroken(self) -> bool:
        return self.lease is None or not self.lease.broken


def process(entry: Entry, settings: Settings, shop: Workshop, waited: float) -> str | None:
    """Bring one queued job to its end; returns the event of its log line, None if it goes on.

    `waited` is how many seconds ago the file was first noticed.
    """
    try:
        with _place(entry, shop, waited) as place:
            return _work(place, settings, shop)
    except (Abandoned, Interrupted):
        _give_up(entry, shop)
        return None
    except WorkerLost as lost:
        return _lost(entry, lost, shop)
    except FileError as end:
        return _end(entry, end, shop)


def _work(place: Place, settings: Settings, shop: Workshop) -> str | None:
    entry = place.entry
    if settings.mode == "analyze":
        numbers = _ask(place, settings, shop, op="analyze")
        line = _line(place, settings, numbers)
        shop.ledger.finish(entry.job_id, "analyzed", line=line, **_sizes(numbers))
        shop.log("file.analyzed", **line)
        return "file.analyzed"
    with _staged(place, shop):
        numbers = _ask(place, settings, shop, op="compress")
        _check_returned(entry, numbers["sha256_in"], shop)
        staged = _dress(place, numbers, settings)
        shop.ledger.update(entry.job_id, state="staged", staged=staged, **_sizes(numbers))
        archived = _archive(place, numbers, shop)
        return _publish(place, settings, shop, numbers, staged, archived)


def _publish(
    place: Place,
    settings: Settings,
    shop: Workshop,
    numbers: dict[str, Any],
    staged: Identity,
    archived: Archived,
) -> str:
    entry = place.entry
    expected = Identity.of(os.fstat(place.fd))  # lensd's own link has changed the ctime
    if not expected.same_content(entry.identity):
        raise Skipped("changed", "somebody wrote to the file; it starts over")
    line = _line(place, settings, numbers) | {
        "archive_method": archived.method,
        "archive_path": archived.path,
        "lease": place.lease is not None,
    }
    shop.ledger.update(
        entry.job_id,
        state="publishing",
        line=line,
        archive_path=archived.path,
        archive_method=archived.method,
    )
    published = atomic.publish(
        place.folder_fd,
        place.name,
        place.temporary,
        expected=expected,
        staged=staged,
        unbroken=lambda: place.unbroken,
    )
    line |= {"publish": published}
    line["seconds"] |= {"total": round(time.monotonic() - place.began, 4)}
    now = identity_at(place.folder_fd, place.name)
    shop.ledger.update(
        entry.job_id, state="published", outcome="compressed", staged=now or staged, line=line
    )
    shop.ledger.replace_older(entry.root, entry.path, entry.job_id)
    announce(shop, entry.job_id, line)
    if published == "exchange":
        _discard_original(place, expected, shop)
    shop.ledger.finish(entry.job_id, "compressed")
    return "file.compressed"


def announce(shop: Workshop, job_id: str, line: dict[str, Any]) -> None:
    """The one canonical line of a compressed file."""
    shop.log("file.compressed", **line)
    shop.ledger.update(job_id, emitted=1)


def _discard_original(place: Place, original: Identity, shop: Workshop) -> None:
    """Unlink what came out of the exchange. Without a lease somebody may still have it open."""
    if place.lease is None:
        shop.stopping.wait(shop.quiet_seconds)
    if not atomic.discard(place.folder_fd, place.temporary, original):
        rescue(shop, place.entry, place.folder_fd, place.temporary)


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


@contextmanager
def _place(entry: Entry, shop: Workshop, waited: float) -> Iterator[Place]:
    """Open the file that the job belongs to, and keep writers away from it where that can be."""
    folder, name = os.path.split(entry.path)
    try:
        folder_fd = open_folder(entry.root, folder)
    except FileNotFoundError:
        raise _vanished() from None
    try:
        own = shop.archive.find(entry.watch, entry.path)
        try:
            facts = complete.probe(folder_fd, name, own_inode=os.lstat(own).st_ino if own else None)
        except FileNotFoundError:
            raise _vanished() from None
        if not facts.identity.same_content(entry.identity):
            raise Skipped("changed", "another version of the file came before its turn")
        for refusal in (facts.kind_refusal, facts.refusal):
            if refusal is not None:
                raise refusal
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder_fd)
        try:
            entry = replace(entry, identity=Identity.of(os.fstat(fd)))
            lease = Lease.take(fd)
            if lease is Refusal.OPEN_WRITER:
                raise Skipped("changed", "a program opened the file for writing; it starts over")
            held = lease if isinstance(lease, Lease) else None
            try:
                yield Place(
                    entry,
                    folder_fd,
                    name,
                    fd,
                    held,
                    temporary=temporary_name(entry.job_id),
                    original=(entry.archive_path or "") if entry.redo else entry.full_path,
                    waited=waited,
                    began=time.monotonic() - waited,
                )
            finally:
                if held is not None:
                    held.release()
        finally:
            os.close(fd)
    finally:
        os.close(folder_fd)


@contextmanager
def _staged(place: Place, shop: Workshop) -> Iterator[None]:
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
        found = identity_at(place.folder_fd, place.temporary)
        if found is not None and found[:2] == place.staged_inode:
            os.unlink(place.temporary, dir_fd=place.folder_fd)
            fsync_folder(place.folder_fd)
        raise


def _ask(place: Place, settings: Settings, shop: Workshop, *, op: str) -> dict[str, Any]:
    """Let the worker do it; a refusal comes back as the error it was raised as."""
    entry = place.entry
    folder = os.path.dirname(entry.full_path)
    answer = shop.worker.request(
        {
            "op": op,
            "job_id": entry.job_id,
            "path": place.original,
            "identity": list(Identity.of(os.lstat(place.original))),
            "name": os.fsencode(place.name).decode("utf-8", "backslashreplace"),
            "temporary": os.path.join(folder, place.temporary),
            "temporary_inode": place.staged_inode,
            "parameters": settings.parameters(),
            "min_saving": settings.min_saving,
            "max_error": settings.max_error,
            "device": shop.device,
            "adapter_config": identity_at(place.folder_fd, "adapter_config.json") is not None,
        },
        give_up=lambda: shop.stopping.is_set() or not place.unbroken,
    )
    kind = answer.pop("type")
    if kind == "result":
        return answer
    if kind == "refused":
        raise _refusal(answer)
    raise Failed(
        "internal",
        f"a bug in lensd: {answer['message']}\nThe file is untouched; please report this",
    )


def _refusal(answer: dict[str, Any]) -> FileError:
    kinds: dict[str, type[FileError]] = {k.event: k for k in (Kept, Skipped, Failed)}
    error = kinds[answer["event"]](answer["reason"], answer["message"])
    error.measures = answer["measures"]
    return error


def _check_returned(entry: Entry, sha256: str, shop: Workshop) -> None:
    """Something copies the original back again and again: do not fight it."""
    if entry.redo or shop.ledger.times_published(entry.root, entry.path, sha256) < 2:
        return
    raise Kept(
        "returned",
        "the same original came back for the third time, so some program syncs it here; it stays. "
        "Let that program ignore this file or sync one way only, then `lensd once --redo`",
    )


def _dress(place: Place, numbers: dict[str, Any], settings: Settings) -> Identity:
    """Give the staged output what the original has, before anything is changed."""
    fd = os.open(
        place.temporary, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place.folder_fd
    )
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


def _archive(place: Place, numbers: dict[str, Any], shop: Workshop) -> Archived:
    began = time.monotonic()
    if place.entry.redo:
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


def _line(place: Place, settings: Settings, numbers: dict[str, Any]) -> dict[str, Any]:
    """The fields of a file.compressed or file.analyzed line."""
    total = round(time.monotonic() - place.began, 4)
    line = {
        "path": place.entry.full_path,
        "watch": place.entry.watch,
        "job_id": place.entry.job_id,
        "mode": settings.mode,
        **numbers,
        "seconds": {"wait": round(place.waited, 4), **numbers["seconds"], "total": total},
    }
    if "bytes_out" in numbers:
        line["ratio"] = round(numbers["bytes_in"] / numbers["bytes_out"], 4)
    return line


def _sizes(numbers: dict[str, Any]) -> dict[str, Any]:
    wanted = ("sha256_in", "sha256_out", "bytes_in", "bytes_out")
    return {name: numbers[name] for name in wanted if name in numbers}


def _end(entry: Entry, end: FileError, shop: Workshop) -> str | None:
    """A file's end other than success, or another beginning for its new version."""
    if end.reason == "changed":
        shop.ledger.finish(entry.job_id, "superseded", reason=end.reason, message=str(end))
        shop.again(entry)
        return None
    outcome = end.event.removeprefix("file.")
    known = {k: end.measures[k] for k in ("sha256_in", "bytes_in") if k in end.measures}
    shop.ledger.finish(entry.job_id, outcome, reason=end.reason, message=str(end), **known)
    shop.log(
        end.event,
        path=entry.full_path,
        watch=entry.watch,
        job_id=entry.job_id,
        reason=end.reason,
        message=str(end),
        **end.measures,
    )
    return end.event


def _lost(entry: Entry, lost: WorkerLost, shop: Workshop) -> str | None:
    """The worker died: one attempt; after ATTEMPTS the file is set aside, for others to go on."""
    attempts = entry.attempts + 1
    if attempts < ATTEMPTS:
        shop.ledger.update(entry.job_id, state="queued", attempts=attempts)
        return None
    message = (
        f"{lost}, {attempts} times on this file; it is left as it is. `lensd retry` tries again, "
        "and so does a new version of lensd"
    )
    shop.ledger.finish(
        entry.job_id, "quarantined", attempts=attempts, reason=lost.reason, message=message
    )
    shop.log(
        "file.quarantined",
        path=entry.full_path,
        watch=entry.watch,
        job_id=entry.job_id,
        reason=lost.reason,
        message=message,
        attempts=attempts,
    )
    return "file.quarantined"


def _give_up(entry: Entry, shop: Workshop) -> None:
    """lensd is stopping, or a writer came: nothing was changed, the job begins again."""
    if shop.stopping.is_set():
        shop.ledger.update(entry.job_id, state="queued")
        return
    message = "somebody wrote to the file"
    shop.ledger.finish(entry.job_id, "superseded", reason="changed", message=message)
    shop.again(entry)


def _vanished() -> Skipped:
    return Skipped("vanished", "the file was gone when its turn came; nothing was to be done")
