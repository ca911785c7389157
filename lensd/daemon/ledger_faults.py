"""Reports a ledger that cannot be written: once when that begins, once when it ends."""

from __future__ import annotations

import threading

from lensd.errors import DegradedReason, StorageError
from lensd.logs.events import DaemonDegraded, DaemonRecovered
from lensd.watcher.folder import Log


class LedgerFaults:
    """The roots whose last write failed. From any thread."""

    def __init__(self, state: str, log: Log) -> None:
        self._state = state
        self._log = log
        self._lock = threading.Lock()
        self._roots: set[str] = set()

    def report(self, root: str, fault: StorageError | None) -> None:
        """The thread of a root could not write, or (None) could."""
        with self._lock:
            before = bool(self._roots)
            if fault is None:
                self._roots.discard(root)
            else:
                self._roots.add(root)
            if before == bool(self._roots):
                return
        message = f"{fault}. New files wait until then" if fault else "new files become jobs again"
        kind = DaemonRecovered if fault is None else DaemonDegraded
        reason = DegradedReason.IO_ERROR
        self._log(kind(watch=None, path=self._state, reason=reason, message=message))
