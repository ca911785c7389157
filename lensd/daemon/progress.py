"""What lensd does now, for a person at a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from lensd.daemon.control_messages import Step
from lensd.logs.events import Event
from lensd.logs.sinks import Sink
from lensd.store.ledger.entry import Entry
from lensd.worker.workers import ReportProgress

# Begin and end of each stage, as shares of the time for a file: about what bench.engine measures.
STAGES = {
    "compress": (0.0, 0.95),
    "spectrum": (0.0, 0.45),
    "reduce": (0.45, 0.95),
    "verify": (0.95, 1.0),
}


class ProgressObserver:
    """Progress observer; the base class ignores all calls. Any thread calls its methods."""

    stdout: Sink | None = None  # takes the place of stdout for the log

    def __enter__(self) -> Self:
        """The work begins; it ends with the block."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """The work has ended, or an exception ended it."""

    def begin(self, sizes: Mapping[str, int]) -> None:
        """The batch: the size in bytes of each file, by path."""

    def step(self, path: str, stage: str, done: int, of: int) -> None:
        """`done` of the `of` modules of a file have passed a stage."""

    def ended(self, path: str) -> None:
        """No job runs for the file any more; it may have no outcome yet."""

    def settling(self, files: int, seconds: float) -> None:
        """No job may begin: `files` files are quiet in about `seconds` seconds."""

    def waiting(self, path: str, reason: str | None) -> None:
        """Why a file is no job yet; None: it waits no longer."""

    def stopped(self, left: int) -> None:
        """A signal ended lensd, and `left` files are not processed yet."""

    def logged(self, event: Event) -> None:
        """The log has a new line; a JobEnd is the last of its file."""


class LatestSteps:
    """The last step of each running job. The job thread sets it, requests read it."""

    def __init__(self) -> None:
        self._steps: dict[str, Step] = {}

    def get(self) -> tuple[Step, ...]:
        return tuple(self._steps.values())

    def set(self, step: Step) -> None:
        self._steps[step.job_id] = step

    def remove(self, job_id: str) -> None:
        """The job runs no more."""
        self._steps.pop(job_id, None)


def report_steps(
    observer: ProgressObserver, running: Mapping[str, Entry], latest: LatestSteps
) -> ReportProgress:
    """The supervisor's progress callback. The observer gets the path with which the job began."""

    def report(job_id: str, stage: str, done: int, of: int) -> None:
        latest.set(Step(f"{stage} {done}/{of}", job_id=job_id, stage=stage, done=done, of=of))
        observer.step(running[job_id].full_path, stage, done, of)

    return report
