"""The daemon's own prune, once a day between two jobs."""

from __future__ import annotations

import time
from dataclasses import dataclass

from lensd.errors import DiskUnavailable, FileError
from lensd.jobs.prune import DAY_SECONDS, Pruner, Stop
from lensd.logs.events import DaemonPruned
from lensd.store.ledger import Ledger
from lensd.watcher.folder import Log

FIRST_SECONDS = 600.0  # from the start of lensd to a pass that is overdue
CLOCK_WAS_SET_SECONDS = 3600.0


@dataclass(slots=True)
class Schedule:
    """When the next pass is due. `wall`: wall time; `boot`: seconds since boot, sleep included.

    A clock that is set while lensd runs can make every original old at once: then nothing is
    deleted for a day in which the clock is not set again.
    """

    wall: float
    boot: float
    wait: float = FIRST_SECONDS

    def is_due(self, last: float | None, wall: float, boot: float) -> bool:
        """Whether to start a pass; the last one was at the wall time `last`."""
        if abs((wall - self.wall) - (boot - self.boot)) > CLOCK_WAS_SET_SECONDS:
            self.wall, self.boot, self.wait = wall, boot, DAY_SECONDS
        waited = boot - self.boot >= self.wait
        return waited and (last is None or not 0 <= wall - last < DAY_SECONDS)


class DailyPass:
    """Deletes originals that are older than keep_days."""

    def __init__(self, pruner: Pruner, ledger: Ledger, log: Log) -> None:
        self._pruner = pruner
        self._ledger = ledger
        self._log = log
        self._schedule = Schedule(*_read_clocks())
        self._has_finished_interrupted = False

    def run_if_due(self, stop: Stop) -> None:
        """Ends early when `stop()` is true, and is then still due. Raises StorageError."""
        try:
            if not self._has_finished_interrupted:
                self._pruner.finish_interrupted()
                self._has_finished_interrupted = True
            wall, boot = _read_clocks()
            if self._schedule.is_due(self.last_run(), wall, boot):
                self.run(wall, stop)
        except (FileError, OSError, DiskUnavailable):
            self._has_finished_interrupted = False  # a fault of the archive ends no daemon

    def run(self, now: float, stop: Stop) -> None:
        """One pass at the wall time `now`, with a log line that sums it up."""
        files = size = kept = 0
        for result in self._pruner.prune(now, stop):
            if result.kept_because is None:
                files, size = files + 1, size + result.bytes
            else:
                kept += 1
        if stop():
            return
        self._ledger.state.last_prune.set(now)
        if files or kept:
            message = (
                "originals that stay beyond archive.keep_days are listed, with the reason, by "
                "`lensd prune --dry-run`"
            )
            self._log(DaemonPruned(files=files, bytes=size, kept=kept, message=message))

    def last_run(self) -> float | None:
        """The wall time of the last pass that was completed."""
        return self._ledger.state.last_prune.get()


def _read_clocks() -> tuple[float, float]:
    return time.time(), time.clock_gettime(time.CLOCK_BOOTTIME)
