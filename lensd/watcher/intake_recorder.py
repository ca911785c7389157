"""What the intake finds out about files: it goes to the ledger and to the log."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Unpack

from lensd.errors import FileError, Outcome
from lensd.logs.events import FileDetected, FileSettled, file_end
from lensd.store.identity import Identity
from lensd.store.ledger import Columns, Ledger
from lensd.watcher.folder import Folder, Log
from lensd.watcher.own_output import read_marks
from lensd.watcher.settle import Key


@dataclass(frozen=True, slots=True)
class Arrival:
    """A new job, and when the intake first saw its file (monotonic seconds)."""

    job_id: str
    first_seen: float


class IntakeRecorder:
    """`arrivals` gets a message for each new job, before the ledger has the job.

    `waiting(path, reason)` is called with why a file is no job yet, and with None when it waits no
    longer.
    """

    def __init__(
        self,
        folders: Sequence[Folder],
        ledger: Ledger,
        log: Log,
        arrivals: SimpleQueue[Arrival],
        waiting: Callable[[str, str | None], None] = lambda *_: None,
    ) -> None:
        self._names = {f.root: f.name for f in folders}
        self._ledger = ledger
        self._log = log
        self._arrivals = arrivals
        self._waiting = waiting

    def report_detected(self, key: Key, identity: Identity) -> None:
        """Log that a path is new."""
        path, watch = os.path.join(*key), self._names[key.root]
        self._log(FileDetected(path=path, watch=watch, job_id=None, bytes=identity.size))

    def record_waiting(self, key: Key, reason: str | None) -> None:
        """Note for `lensd status` why a file is no job yet; None: it waits no longer."""
        self._ledger.state.set_waiting(*key, self._names[key.root], reason)
        self._waiting(os.path.join(*key), reason)

    def enqueue(
        self, key: Key, identity: Identity, *, first_seen: float, wait: float, waited: bool
    ) -> None:
        """Make a job of a settled file, `wait` seconds after the intake first saw it.

        `waited`: `lensd status` shows it as waiting, and shows the job instead from now on.
        """
        job_id = secrets.token_hex(8)
        # Before the ledger has the job: when the job thread takes it, the message is there.
        self._arrivals.put(Arrival(job_id, first_seen))
        with self._ledger.together():
            self._ledger.jobs.enqueue(job_id, key.root, self._names[key.root], key.path, identity)
            if waited:
                self._ledger.state.set_waiting(*key, self._names[key.root], None)
        if waited:
            self._waiting(os.path.join(*key), None)
        self._log(
            FileSettled(
                path=os.path.join(*key),
                watch=self._names[key.root],
                job_id=job_id,
                bytes=identity.size,
                wait=round(wait, 3),
            )
        )

    def record_output(self, key: Key, identity: Identity) -> None:
        """Record an output that no job of this ledger has made here, and its original."""
        marked = read_marks(*key)
        sha256 = None if marked is None else marked.sha256
        self._record(key, identity, outcome=Outcome.OUTPUT, sha256_in=sha256)

    def record_refusal(self, key: Key, refusal: FileError, identity: Identity) -> None:
        """Record and log why this version of a file is no job."""
        columns: Columns = {
            "outcome": refusal.outcome,
            "reason": refusal.reason,
            "message": str(refusal),
        }
        self.report_refusal(key, refusal, self._record(key, identity, **columns))

    def report_refusal(self, key: Key, refusal: FileError, job_id: str | None = None) -> None:
        """Log why a file is no job now; without `job_id` it may still become one."""
        path, watch = os.path.join(*key), self._names[key.root]
        self._log(file_end(refusal, path=path, watch=watch, job_id=job_id))

    def _record(self, key: Key, identity: Identity, **columns: Unpack[Columns]) -> str:
        job_id = secrets.token_hex(8)
        watch = self._names[key.root]
        self._ledger.files.record(job_id, key.root, watch, key.path, identity, **columns)
        return job_id
