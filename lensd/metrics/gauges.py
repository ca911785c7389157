"""How things stand now, asked of the ledger each time the metrics are written."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from lensd.metrics.exposition import Family, Values
from lensd.store.ledger import Ledger

STARTED = time.time()
PROBLEMS = ("failed", "quarantined")


class Standing:
    """Gauges of a ledger. `degraded()` names the watched folders that are."""

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
        """Raises StorageError."""
        version = {self._version: 1}
        yield _labelled("lensd_build_info", "1, for this version.", "version", version)
        yield _gauge("lensd_up", "1 while lensd runs, 0 after it ended in order.", up)
        yield _gauge("lensd_start_time_seconds", "When this process started.", STARTED)
        yield from self._work()
        yield from self._totals()
        degraded = self._degraded()
        yield _labelled(
            "lensd_watch_degraded",
            "1 for a watched folder that is not there, or whose events are not heard.",
            "watch",
            {watch: watch in degraded for watch in self._watches},
        )

    def _work(self) -> Iterator[Family]:
        ledger = self._ledger
        queued = ledger.jobs.count_unfinished()
        yield _gauge("lensd_queue_files", "Jobs that wait or are under way.", queued)
        waiting = len(ledger.state.waiting())
        yield _gauge("lensd_waiting_files", "Files that are not whole yet, so no jobs.", waiting)
        paused = bool(ledger.state.paused())
        yield _gauge("lensd_paused", "1 while anything is paused by `lensd pause`.", paused)
        held = ledger.state.disk_backoff.get() is not None
        yield _gauge("lensd_held_up", "1 while a disk's fault holds all jobs up.", held)

    def _totals(self) -> Iterator[Family]:
        totals = self._ledger.files.totals()
        outcomes = totals.outcomes
        yield _labelled("lensd_ledger_files", "Versions of files, as known.", "outcome", outcomes)
        problems = sum(outcomes.get(outcome, 0) for outcome in PROBLEMS)
        yield _gauge("lensd_problem_files", "Files that failed or are set aside.", problems)
        saved, held = totals.saved_in_folders, totals.held_by_archive
        yield _gauge("lensd_saved_bytes", "What the watched folders are smaller by.", saved)
        yield _gauge("lensd_archive_bytes", "Originals that the archive holds.", held)


def _gauge(name: str, meaning: str, number: float) -> Family:
    return Family(name, "gauge", meaning, numbers={(): number})


def _labelled(name: str, meaning: str, label: str, numbers: Mapping[str, float]) -> Family:
    by_value: dict[Values, float] = {(value,): number for value, number in numbers.items()}
    return Family(name, "gauge", meaning, (label,), by_value)
