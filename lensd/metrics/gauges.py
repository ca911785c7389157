"""Numbers that describe the present state, read from the ledger whenever metrics are written."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from lensd.metrics.exposition import Family, Values
from lensd.store.ledger import Ledger, Outcome

STARTED = time.time()
PROBLEMS = (Outcome.FAILED, Outcome.QUARANTINED)


class Gauges:
    """Gauges of a ledger. `degraded` returns the names of the watched folders that are degraded."""

    def __init__(
        self,
        version: str,
        ledger: Ledger,
        watches: Sequence[str],
        degraded: Callable[[], Collection[str]],
    ) -> None:
        self._version = version
        self._ledger = ledger
        self._watches = watches
        self._degraded = degraded

    def families(self, *, up: bool) -> Iterator[Family]:
        """Read all gauges; `up` is False for the last time. Raises StorageError."""
        version = {self._version: 1}
        yield _labelled("lensd_build_info", "1, for this version.", "version", version)
        yield _gauge("lensd_up", "1 while lensd runs, 0 after it ended normally.", up)
        yield _gauge("lensd_start_time_seconds", "When this process started.", STARTED)
        yield from self._queue_gauges()
        yield from self._total_gauges()
        degraded = self._degraded()
        yield _labelled(
            "lensd_watch_degraded",
            "1 for a watched folder that is missing, or whose events lensd does not get.",
            "watch",
            {watch: watch in degraded for watch in self._watches},
        )

    def _queue_gauges(self) -> Iterator[Family]:
        ledger = self._ledger
        queued = ledger.jobs.count_unfinished()
        yield _gauge("lensd_queue_files", "Jobs that wait or are being processed.", queued)
        waiting = len(ledger.state.waiting())
        yield _gauge(
            "lensd_waiting_files", "Files that are not complete yet, so not jobs yet.", waiting
        )
        paused = bool(ledger.state.paused())
        yield _gauge("lensd_paused", "1 while `lensd pause` pauses anything.", paused)
        backing_off = ledger.state.disk_backoff.get() is not None
        yield _gauge("lensd_held_up", "1 while jobs wait for a disk with a fault.", backing_off)

    def _total_gauges(self) -> Iterator[Family]:
        totals = self._ledger.files.totals()
        outcomes = totals.outcomes
        yield _labelled(
            "lensd_ledger_files", "Versions of files in the ledger.", "outcome", outcomes
        )
        problems = sum(outcomes.get(outcome, 0) for outcome in PROBLEMS)
        yield _gauge("lensd_problem_files", "Files that failed or are set aside.", problems)
        saved, archived = totals.saved_in_folders, totals.held_by_archive
        yield _gauge("lensd_saved_bytes", "Bytes that the watched folders are smaller by.", saved)
        yield _gauge("lensd_archive_bytes", "Bytes of the originals in the archive.", archived)


def _gauge(name: str, meaning: str, number: float) -> Family:
    return Family(name, "gauge", meaning, numbers={(): number})


def _labelled(name: str, meaning: str, label: str, numbers: Mapping[str, float]) -> Family:
    by_value: dict[Values, float] = {(value,): number for value, number in numbers.items()}
    return Family(name, "gauge", meaning, (label,), by_value)
