"""How far a batch of files is, for whoever shows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lensd.logs.sinks import Sink
from lensd.store.ledger import Ledger
from lensd.worker.supervisor import Progress

FAILURES = ("file.failed", "file.quarantined")
ENDS = ("file.compressed", "file.analyzed", "file.kept", "file.skipped", *FAILURES)


class ProgressObserver:
    """Progress observer; the base class ignores all calls. Any thread calls its methods."""

    stdout: Sink | None = None  # takes the place of stdout for the log

    def begin(self, sizes: Mapping[str, int]) -> None:
        """The batch: the size in bytes of each file, by path."""

    def step(self, path: str, stage: str, done: int, of: int) -> None:
        """`done` of the `of` modules of a file have passed a stage."""

    def told(self, event: str, fields: Mapping[str, Any]) -> None:
        """An event that the log has too; one of ENDS is the last of its file."""


def report_steps(observer: ProgressObserver, ledger: Ledger) -> Progress:
    """The supervisor's progress callback: it finds the path of the job for the observer."""

    def report(job_id: str, stage: str, done: int, of: int) -> None:
        observer.step(ledger.jobs.get(job_id).full_path, stage, done, of)

    return report
