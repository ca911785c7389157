"""The thread that writes the textfile: after outcomes, once a minute, and at the end.

It has a thread of its own, because the file may be on a slow disk, which must not delay jobs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence

from lensd.errors import DegradedReason, StorageError
from lensd.logs.events import DaemonDegraded, DaemonRecovered, Event
from lensd.metrics import exposition, textfile
from lensd.metrics.counts import Counts
from lensd.metrics.gauges import Gauges
from lensd.store.ledger import Ledger

HEARTBEAT_SECONDS = 60.0  # so that the file's date shows that lensd runs
GATHER_SECONDS = 2.0  # outcomes within this time are written together


class Exporter(threading.Thread):
    """Writes the counters of logged events, and the gauges of the ledger.

    `degraded` returns the names of the watched folders that are degraded now. `log` logs an
    event: `daemon.degraded` once when writing fails, `daemon.recovered` when it works again.
    """

    def __init__(
        self,
        path: str,
        version: str,
        ledger: Ledger,
        watches: Sequence[str],
        degraded: Callable[[], Collection[str]],
        log: Callable[[Event], None],
        *,
        heartbeat: float = HEARTBEAT_SECONDS,
        gather: float = GATHER_SECONDS,
    ) -> None:
        super().__init__(name="metrics", daemon=True)
        self._path = path
        self._log = log
        self._heartbeat, self._gather = heartbeat, gather
        self._gauges = Gauges(version, ledger, watches, degraded)
        self._counts = Counts(watches)
        self._changed = threading.Event()
        self._stopping = threading.Event()
        self._failing = False

    def note(self, event: Event) -> None:
        """Count an event that was logged. Any thread may call this."""
        if self._counts.count(event):
            self._changed.set()

    def run(self) -> None:
        while not self._stopping.is_set():
            self._write(up=True)
            self._changed.wait(self._heartbeat)
            self._stopping.wait(self._gather)
            self._changed.clear()  # before writing, so that an event during it causes another write
        self._write(up=False)

    def finish(self, timeout: float) -> None:
        """Write once more and end; wait at most `timeout` seconds, as the disk may hang."""
        self._stopping.set()
        self._changed.set()
        if self.is_alive():
            self.join(timeout)

    def _write(self, *, up: bool) -> None:
        try:
            gauges = exposition.text(self._gauges.families(up=up))
            textfile.replace(self._path, gauges + self._counts.text())
        except (OSError, StorageError) as error:
            self._log_change(error)
        else:
            self._log_change(None)

    def _log_change(self, error: Exception | None) -> None:
        """Log the first failure after a success, and the first success after a failure."""
        if self._failing == (error is not None):
            return
        self._failing = error is not None
        cause = getattr(error, "strerror", None) or str(error)
        kind = DaemonDegraded if error else DaemonRecovered
        message = (
            f"lensd cannot write the metrics: {cause}; make the folder of metrics.textfile "
            "writable for lensd. It compresses files as before"
            if error
            else "lensd writes the metrics again"
        )
        self._log(
            kind(watch=None, path=self._path, reason=DegradedReason.IO_ERROR, message=message)
        )
