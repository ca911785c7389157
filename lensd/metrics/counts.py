"""Count the events that are logged since lensd read its configuration."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from typing import get_args

from lensd.logs.events import (
    Event,
    FileAnalyzed,
    FileCompressed,
    FileEnd,
    FilePruned,
    FileRescued,
    FileRestored,
    JobEnd,
    WorkerCrashed,
    name_of,
)
from lensd.metrics.exposition import Family, Histogram, text

Counted = JobEnd | FileRestored | FileRescued | FilePruned
OUTCOMES = tuple(name_of(kind).removeprefix("file.") for kind in get_args(Counted))
STAGES = ("wait", "read", "compute", "write", "verify", "archive")
# Bounds around sqrt(1 - energy) for usual energies: 0.999, 0.99, 0.95 and 0.9.
ERRORS = (0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5)


class Counts:
    """Counters of outcomes, bytes, errors and seconds. Any thread may use them.

    Samples with known labels exist as 0 from the start, so that rates are correct.
    """

    def __init__(self, watches: Iterable[str]) -> None:
        self._lock = threading.Lock()
        self._files = _counter("lensd_files_total", "Files by outcome.", "watch", "outcome")
        reasons = "Files that stay unchanged, by the reason that docs/errors.md explains."
        self._left = _counter("lensd_left_files_total", reasons, "outcome", "reason")
        labels = ("watch", "mode", "family")
        self._compressed = _counter(
            "lensd_compressed_files_total", "Files that were compressed.", *labels
        )
        originals = "Bytes of the originals of these files."
        self._bytes_in = _counter("lensd_input_bytes_total", originals, *labels)
        self._bytes_out = _counter(
            "lensd_output_bytes_total", "Bytes of the outputs of these files.", *labels
        )
        self._error = Histogram(
            "lensd_delta_error_ratio",
            "Relative error of the delta weights of compressed files, as read back from the disk.",
            "mode",
            ERRORS,
        )
        stages = "Time that files spent in each stage; wait begins when lensd first sees a file."
        self._seconds = _counter("lensd_stage_seconds_total", stages, "stage")
        self._crashes = _counter(
            "lensd_worker_crashes_total", "Worker processes that crashed or hung."
        )
        self._last = Family(
            "lensd_last_outcome_timestamp_seconds",
            "gauge",
            "When a file had this outcome most recently.",
            ("outcome",),
        )
        self._add_zeros(watches)

    def _add_zeros(self, watches: Iterable[str]) -> None:
        for outcome in OUTCOMES:
            for watch in watches:
                self._files.add(0, watch, outcome)
        for stage in STAGES:
            self._seconds.add(0, stage)
        self._crashes.add(0)

    def count(self, event: Event) -> bool:
        """Count an event. Returns whether it changed any counter."""
        with self._lock:
            if isinstance(event, WorkerCrashed):
                self._crashes.add(1)
            elif isinstance(event, Counted):
                self._count_outcome(event)
            else:
                return False
        return True

    @property
    def families(self) -> tuple[Family | Histogram, ...]:
        return (
            self._files,
            self._left,
            self._compressed,
            self._bytes_in,
            self._bytes_out,
            self._error,
            self._seconds,
            self._crashes,
            self._last,
        )

    def text(self) -> bytes:
        """Return all counters in the text format."""
        with self._lock:
            return text(self.families)

    def _count_outcome(self, event: Counted) -> None:
        outcome = event.name.removeprefix("file.")
        self._files.add(1, event.watch, outcome)
        self._last.numbers[outcome,] = time.time()
        if isinstance(event, FileEnd):
            self._left.add(1, outcome, event.reason)
        if isinstance(event, FileCompressed | FileAnalyzed):
            for stage in STAGES:
                self._seconds.add(getattr(event.seconds, stage) or 0, stage)
        if isinstance(event, FileCompressed):
            self._count_compressed(event)

    def _count_compressed(self, event: FileCompressed) -> None:
        labels = (event.watch, event.mode, event.family)
        self._compressed.add(1, *labels)
        self._bytes_in.add(event.bytes_in, *labels)
        self._bytes_out.add(event.bytes_out, *labels)
        self._error.observe(event.delta_error, event.mode)


def _counter(name: str, meaning: str, *labels: str) -> Family:
    return Family(name, "counter", meaning, labels)
