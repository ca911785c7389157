"""The thread that keeps the textfile true: after outcomes, now and then, and at the end.

A thread of its own, since the file may lie on any disk, and a slow one must hold up nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence

from lensd.errors import DegradedReason, StorageError
from lensd.logs.events import DaemonDegraded, DaemonRecovered, Event
from lensd.metrics import exposition, textfile
from lensd.metrics.counts import Counts
from lensd.metrics.gauges import Standing
from lensd.store.ledger import Ledger

HEARTBEAT_SECONDS = 60.0  # for who watches the file's date
GATHER_SECONDS = 2.0  # outcomes that come together are one write


class Exporter(threading.Thread):
    """`tell` is given the one `daemon.degraded` event of a write that fails, and the recovery."""

    def __init__(
        self,
        path: str,
        version: str,
        ledger: Ledger,
        watches: Sequence[str],
        degraded: Callable[[], Collection[str]],
        tell: Callable[[Event], None],
        *,
        heartbeat: float = HEARTBEAT_SECONDS,
        gather: float = GATHER_SECONDS,
    ) -> None:
        super().__init__(name="metrics", daemon=True)
        self._path = path
        self._tell = tell
        self._heartbeat, self._gather = heartbeat, gather
        self._standing = Standing(version, ledger, watches, degraded)
        self._counts = Counts(watches)
        self._news = threading.Event()
        self._stopping = threading.Event()
        self._fails = False

    def note(self, event: Event) -> None:
        """Count an event. From any thread."""
        if self._counts.count(event):
            self._news.set()

    def run(self) -> None:
        while not self._stopping.is_set():
            self._write(up=True)
            self._news.wait(self._heartbeat)
            self._stopping.wait(self._gather)
            self._news.clear()  # before the next write: what comes during it counts anew
        self._write(up=False)

    def finish(self, timeout: float) -> None:
        """Write once more and end; a disk that hangs is not waited for longer than that."""
        self._stopping.set()
        self._news.set()
        if self.is_alive():
            self.join(timeout)

    def _write(self, *, up: bool) -> None:
        try:
            now = exposition.text(self._standing.families(up=up))
            textfile.replace(self._path, now + self._counts.text())
        except (OSError, StorageError) as error:
            self._tell_once(error)
        else:
            self._tell_once(None)

    def _tell_once(self, error: Exception | None) -> None:
        if self._fails == (error is not None):
            return
        self._fails = error is not None
        why = getattr(error, "strerror", None) or str(error)
        kind = DaemonDegraded if error else DaemonRecovered
        message = (
            f"the metrics cannot be written: {why}; make the folder of metrics.textfile "
            "writable for lensd. Files are compressed as before"
            if error
            else "the metrics are written again"
        )
        self._tell(
            kind(watch=None, path=self._path, reason=DegradedReason.IO_ERROR, message=message)
        )
