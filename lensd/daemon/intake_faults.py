"""Reports a ledger or an archive that the intake cannot use: when that begins, and when it ends."""

from __future__ import annotations

import threading

from lensd.errors import DegradedReason, StorageError
from lensd.logs.events import DaemonDegraded, DaemonRecovered
from lensd.watcher.folder import Log


class IntakeFaults:
    """The roots whose files wait for the ledger's disk or the archive's. From any thread."""

    def __init__(self, state: str, log: Log) -> None:
        self._path = self._state = state
        self._log = log
        self._lock = threading.Lock()
        self._roots: set[str] = set()

    def report(self, root: str, fault: StorageError | None) -> None:
        """The thread of a root met a fault of a disk, or (None) none."""
        with self._lock:
            before = bool(self._roots)
            if fault is None:
                self._roots.discard(root)
            else:
                self._roots.add(root)
            if before == bool(self._roots):
                return
            if fault is not None:
                self._path = fault.path or self._state
        message = f"{fault}. New files wait until then" if fault else "new files become jobs again"
        kind = DaemonRecovered if fault is None else DaemonDegraded
        reason = DegradedReason.IO_ERROR
        self._log(kind(watch=None, path=self._path, reason=reason, message=message))
