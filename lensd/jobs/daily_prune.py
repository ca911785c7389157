"""The daemon's own prune, once a day between two jobs; its looks at the clock and for deletions."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from lensd.errors import DiskUnavailable, FileError
from lensd.jobs.gone_files import GoneFiles
from lensd.jobs.prune import Pruner, Stop
from lensd.logs.events import DaemonClock, DaemonPruned
from lensd.store.ledger import Ledger
from lensd.store.ledger.observed import DAY_SECONDS, read_clocks
from lensd.watcher.folder import Log

FIRST_SECONDS = 600.0  # from the start of lensd to a pass that is overdue


@dataclass(frozen=True, slots=True)
class Schedule:
    """When the next pass is due. `boot`: seconds since boot at the start of lensd."""

    boot: float

    def is_due(self, last: float | None, wall: float, boot: float) -> bool:
        """Whether to start a pass; the last one was at the wall time `last`."""
        waited = boot - self.boot >= FIRST_SECONDS
        return waited and (last is None or not 0 <= wall - last < DAY_SECONDS)


def observe_clock(ledger: Ledger, log: Log) -> None:
    """Note the time that has passed, and log it if the clock was set. Raises StorageError."""
    jump = ledger.observed.observe()
    if jump is not None:
        log(
            DaemonClock(
                seconds=round(jump, 3),
                message=f"the clock was set {'forward' if jump > 0 else 'back'} by "
                f"{abs(jump) / 3600:,.1f} hours; lensd deletes no original for a day. If the clock "
                "is wrong now, correct it (`timedatectl`)",
            )
        )


class DailyPass:
    """Deletes the originals that may go, once a day; looks at the clock and for deleted files.

    Without a `pruner` it deletes nothing.
    """

    def __init__(
        self, pruner: Pruner | None, ledger: Ledger, log: Log, gone: GoneFiles | None = None
    ) -> None:
        self._pruner = pruner
        self._ledger = ledger
        self._log = log
        self._gone = gone
        self._schedule = Schedule(read_clocks().uptime)
        self._has_finished_interrupted = False

    def run_if_due(self, stop: Stop) -> None:
        """Ends early when `stop()` is true, and is then still due. Raises StorageError."""
        observe_clock(self._ledger, self._log)
        with suppress(DiskUnavailable):  # then it is still due
            if self._gone is not None:
                self._gone.look_if_due(stop)
        if self._pruner is None:
            return
        try:
            if not self._has_finished_interrupted:
                self._pruner.finish_interrupted()
                self._has_finished_interrupted = True
            clocks = read_clocks()
            is_due = self._schedule.is_due(self.last_run(), clocks.wall, clocks.uptime)
            if is_due and not self._ledger.observed.pause():
                self.run(clocks.wall, stop)
        except (FileError, OSError, DiskUnavailable):
            self._has_finished_interrupted = False  # a fault of the archive ends no daemon

    def run(self, now: float, stop: Stop) -> None:
        """One pass at the wall time `now`, with a log line that sums it up."""
        files = size = kept = 0
        if self._pruner is None:
            return
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
