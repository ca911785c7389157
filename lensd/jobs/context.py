"""What every job needs, and the one file that a job works on."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from lensd.errors import Reason, Skipped
from lensd.jobs.explained import require_changeable
from lensd.jobs.filesystems import Filesystems
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
    """What every job needs. `patient`: after a fault of a disk the job waits, and does not fail.

    `running` has the jobs that have begun and not ended: recovery leaves them alone.
    """

    ledger: Ledger
    archive: Archive
    log: Log
    hints: Hints
    root_states: RootStates
    move_tracker: MoveTracker
    filesystems: Filesystems
    device: str
    quiet_seconds: float
    patient: bool = False
    stopping: threading.Event = field(default_factory=threading.Event)
    given_up: set[str] = field(default_factory=set)  # jobs that the ledger cannot end
    running: dict[str, Entry] = field(default_factory=dict)

    def interrupted_jobs(self) -> list[Entry]:
        """Jobs that have begun, and that a crash or a fault of a disk has cut off."""
        return [e for e in self.ledger.jobs.under_way() if e.job_id not in self.running]


@dataclass(slots=True)
class JobFile:
    """A job's file while it and its folder are open, with a lease where the filesystem has one."""

    entry: Entry
    folder_fd: int
    name: str
    fd: int
    lease: Lease | None
    temporary: str
    original: str  # the path to read: the file itself, or with `redo` its archived original
    waited: float  # seconds since the intake first saw it
    began: float  # monotonic, when the intake first saw it
    kept: str | None = None  # the sha256 of a copy of the file that `rescued/` has

    @property
    def unbroken(self) -> bool:
        """Whether no program wanted to write since the lease was taken; true without a lease."""
        return self.lease is None or not self.lease.broken

    def require_there(self) -> None:
        """Raises Skipped(`vanished`) when the folder was moved, or a link has its name."""
        folder_fd = _open_folder_of(self.entry)
        try:
            if not os.path.sameopenfile(folder_fd, self.folder_fd):
                raise _vanished()
        finally:
            os.close(folder_fd)


@contextmanager
def open_job_file(entry: Entry, context: JobContext, waited: float) -> Iterator[JobFile]:
    """Open the file of a job, and take a lease on it where the filesystem has leases.

    Raises Skipped(`vanished` | `changed`), or the refusal of a file that is no LoRA.
    """
    with ExitStack() as opened:
        folder_fd = _open_folder_of(entry)
        opened.callback(os.close, folder_fd)
        name = os.path.basename(entry.path)
        expected = _require_expected(entry, folder_fd, name, context)
        fd = _open_file(folder_fd, name)
        opened.callback(os.close, fd)
        require_changeable(fd, entry.full_path)
        found = Identity.of(os.fstat(fd))
        if not found.same_content(expected):
            raise Skipped(Reason.CHANGED, "another file took the name just before the job began")
        lease = Lease.take(fd)
        if lease is Refusal.OPEN_WRITER:
            raise Skipped(Reason.CHANGED, "a program opened the file for writing; it starts over")
        if isinstance(lease, Lease):
            opened.callback(lease.release)
        yield JobFile(
            replace(entry, identity=found),
            folder_fd,
            name,
            fd,
            lease if isinstance(lease, Lease) else None,
            temporary=temporary_name(entry.job_id),
            original=(entry.archive_path or "") if entry.redo else entry.full_path,
            waited=waited,
            began=time.monotonic() - waited,
        )


def _require_expected(entry: Entry, folder_fd: int, name: str, context: JobContext) -> Identity:
    """The file's identity, if it is still the version of the job and one for lensd."""
    archived = context.archive.originals.find(entry.watch, entry.path)
    own_inode = os.lstat(archived).st_ino if archived else None
    try:
        facts = completeness.probe(folder_fd, name, own_inode)
    except FileNotFoundError:
        raise _vanished() from None
    if not facts.identity.same_content(entry.identity):
        raise Skipped(Reason.CHANGED, "another version of the file came before the job began")
    for refusal in (facts.kind_refusal, facts.refusal):
        if refusal is not None:
            raise refusal
    if facts.partner is not None:
        raise Skipped(
            Reason.CHANGED, f"a download of it is under way: {facts.partner} lies beside it"
        )
    return facts.identity


def _open_folder_of(entry: Entry) -> int:
    """The folder that the file lies in. Raises Skipped(`vanished`), also if it is a link now."""
    try:
        return open_folder(entry.root, os.path.dirname(entry.path))
    except (FileNotFoundError, Skipped):
        raise _vanished() from None


def _open_file(folder_fd: int, name: str) -> int:
    try:
        return open_regular(folder_fd, name)
    except (FileNotFoundError, Skipped):  # a link or a pipe has taken the name
        raise _vanished() from None


def _vanished() -> Skipped:
    return Skipped(Reason.VANISHED, "the file disappeared before it could be processed")
