"""The faults of disks that lensd knows of: which jobs wait, and what the log and `status` say."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Iterator, Mapping

from lensd.daemon.disk_backoff import DiskBackoff, Disks
from lensd.errors import (
    ClusterUnavailable,
    DegradedReason,
    DiskUnavailable,
    LensdError,
    StorageError,
    WorkerUnavailable,
)
from lensd.jobs import recover
from lensd.jobs.context import JobContext, Settings
from lensd.logs.events import DaemonDegraded, DaemonRecovered

_OF_NO_DISK = (ClusterUnavailable, WorkerUnavailable)


class Backoffs:
    """Only the thread that takes jobs now uses it, but `note_hang`."""

    def __init__(self, context: JobContext, settings: Mapping[str, Settings]) -> None:
        self._context = context
        self._settings = settings
        self._all: tuple[DiskBackoff, ...] = ()
        self._hang: str | None = None

    def __iter__(self) -> Iterator[DiskBackoff]:
        return iter(self._all)

    def __bool__(self) -> bool:
        return bool(self._all)

    def look_at(self, fault: StorageError, *, of_pass: bool) -> DiskBackoff:
        """What a fault of a disk means; it holds no job as yet. May wait for the disk."""
        if not isinstance(fault, DiskUnavailable):
            fault = DiskUnavailable(
                DegradedReason.IO_ERROR, fault.path or self._context.archive.root, str(fault)
            )
        return DiskBackoff.begin(fault, self._disks(), time.monotonic(), of_pass=of_pass)

    def add(self, found: DiskBackoff) -> None:
        """Begin no job that needs the disk until it is well again."""
        for known in self._all:
            if (known.fault.reason, known.roots) == (found.fault.reason, found.roots):
                known.of_pass |= found.of_pass
                known.extend(found.disk, time.monotonic())
                return
        self._all = (*self._all, found)
        message = f"{found.fault}. The jobs that need it wait until then"
        self._report(DaemonDegraded, found.fault, message)

    def roots_waiting(self) -> frozenset[str]:
        """The roots that need a disk which is not to be tried now."""
        return frozenset().union(*(b.roots for b in self._all if not self._may_try(b)))

    def must_archive_wait(self) -> bool:
        """Whether the archive's disk is not to be tried now."""
        archiving = self._disks().archiving
        disks = [b for b in self._all if not isinstance(b.fault, _OF_NO_DISK)]
        return any(b.roots >= archiving and not self._is_due(b) for b in disks)

    def end_of(self, root: str, began: float) -> None:
        """A job in a root has succeeded, which began (monotonic) after the fault."""
        self._end([b for b in self._all if root in b.roots and b.since <= began and not b.of_pass])

    def end_without_jobs(self, waiting: Collection[str]) -> None:
        """No job needs these disks but those in the roots that wait; the next finds out again."""
        waiting = self._context.root_states.silent.union(waiting)
        self._end([b for b in self._all if not (b.of_pass or b.roots <= waiting)])

    def end_of_pass(self) -> None:
        """The daily pass has succeeded."""
        self._end([b for b in self._all if b.of_pass])

    def note_hang(self, text: str | None) -> None:
        """For `status`: the archive does not answer, or (None) does. From any thread."""
        self._hang = text
        self._write_note()

    def _disks(self) -> Disks:
        context = self._context
        return Disks(
            context.ledger.folder,
            context.archive.root,
            {root: context.root_states.device(root) for root in self._settings},
            frozenset(r for r, found in self._settings.items() if found.mode != "analyze"),
            context.root_states.answers,
        )

    def _is_due(self, backoff: DiskBackoff) -> bool:
        if isinstance(backoff.fault, ClusterUnavailable):
            return backoff.fault.is_back()
        return backoff.is_due(self._disks().look(backoff.place), time.monotonic())

    def _may_try(self, backoff: DiskBackoff) -> bool:
        """Whether a job may try the disk; before it recovery puts right what the fault left."""
        if not self._is_due(backoff):
            return False
        try:
            is_well = recover.recover(self._context, report=False, within=backoff.roots) is None
        except (LensdError, OSError):
            is_well = False
        if not is_well:
            backoff.extend(self._disks().look(backoff.place), time.monotonic())
        return is_well

    def _end(self, ended: list[DiskBackoff]) -> None:
        for backoff in ended:
            self._all = tuple(b for b in self._all if b is not backoff)
            self._report(DaemonRecovered, backoff.fault, "its jobs continue")

    def _report(
        self, kind: type[DaemonDegraded | DaemonRecovered], fault: DiskUnavailable, message: str
    ) -> None:
        self._context.log(kind(watch=None, path=fault.path, reason=fault.reason, message=message))
        with contextlib.suppress(StorageError):  # a full disk may be the ledger's
            self._write_note()

    def _write_note(self) -> None:
        note = self._context.ledger.state.disk_backoff
        texts = [f"{b.fault.path}: {b.fault}" for b in self._all]
        if self._hang is not None:
            texts.append(self._hang)
        if texts:
            note.set("; ".join(texts))
        else:
            note.clear()
