"""What every job needs, and the one file that a job works on."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from lensd.errors import Skipped
from lensd.lora.parameters import Parameters
from lensd.store.archive import Archive
from lensd.store.fs import open_folder, open_regular, temporary_name
from lensd.store.identity import Identity
from lensd.store.lease import Lease, Refusal
from lensd.store.ledger import Ledger
from lensd.store.ledger.entry import Entry
from lensd.watcher import completeness
from lensd.watcher.folder import Log
from lensd.watcher.hints import Hints
from lensd.watcher.move_tracker import MoveTracker
from lensd.watcher.root_states import RootStates
from lensd.worker.supervisor import Worker


class Settings(Protocol):
    """How the files of a folder are compressed (lensd.config has the model)."""

    @property
    def mode(self) -> Literal["analyze", "rank", "int8", "ultra"]: ...
    @property
    def max_error(self) -> float | None: ...
    @property
    def min_saving(self) -> float: ...
    @property
    def preserve_mtime(self) -> bool: ...
    def parameters(self) -> Parameters: ...


@dataclass(frozen=True, slots=True)
class JobContext:
    """What every job needs. `patient`: after a fault of a disk the job waits, and does not fail."""

    ledger: Ledger
    archive: Archive
    worker: Worker
    log: Log
    hints: Hints
    root_states: RootStates
    move_tracker: MoveTracker
    device: str
    quiet_seconds: float
    patient: bool = False
    stopping: threading.Event = field(default_factory=threading.Event)


@dataclass(slots=True)
class JobFile:
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

    @property
    def unbroken(self) -> bool:
        return self.lease is None or not self.lease.broken

    def require_there(self) -> None:
        """Raises Skipped(`vanished`) when the folder lies elsewhere, or a link has its name."""
        folder_fd = _folder_of(self.entry)
        try:
            if not os.path.sameopenfile(folder_fd, self.folder_fd):
                raise _vanished()
        finally:
            os.close(folder_fd)


@contextmanager
def open_job_file(entry: Entry, context: JobContext, waited: float) -> Iterator[JobFile]:
    """Open the file that the job belongs to, and keep writers away from it where that can be."""
    folder_fd = _folder_of(entry)
    name = os.path.basename(entry.path)
    try:
        own = context.archive.find(entry.watch, entry.path)
        try:
            facts = completeness.probe(
                folder_fd, name, own_inode=os.lstat(own).st_ino if own else None
            )
        except FileNotFoundError:
            raise _vanished() from None
        if not facts.identity.same_content(entry.identity):
            raise Skipped("changed", "another version of the file came before its turn")
        for refusal in (facts.kind_refusal, facts.refusal):
            if refusal is not None:
                raise refusal
        if facts.partner is not None:
            raise Skipped("changed", f"a download goes on, {facts.partner} lies beside it")
        try:
            fd = open_regular(folder_fd, name)
        except (FileNotFoundError, Skipped):  # a link or a pipe by now
            raise _vanished() from None
        try:
            found = Identity.of(os.fstat(fd))
            if not found.same_content(facts.identity):  # it took the name after the probe
                raise Skipped("changed", "another file took the name just before its turn")
            entry = replace(entry, identity=found)
            lease = Lease.take(fd)
            if lease is Refusal.OPEN_WRITER:
                raise Skipped("changed", "a program opened the file for writing; it starts over")
            held = lease if isinstance(lease, Lease) else None
            try:
                yield JobFile(
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


def _folder_of(entry: Entry) -> int:
    """The folder that the file lies in. Raises Skipped(`vanished`), also where a link is by now."""
    try:
        return open_folder(entry.root, os.path.dirname(entry.path))
    except (FileNotFoundError, Skipped):
        raise _vanished() from None


def _vanished() -> Skipped:
    return Skipped("vanished", "the file was gone when its turn came; nothing was to be done")
