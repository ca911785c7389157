"""What lensd does now, for a person at a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from lensd.daemon.control_messages import Step
from lensd.logs.events import Event
from lensd.logs.sinks import Sink
from lensd.store.ledger import Ledger
from lensd.worker.supervisor import ReportProgress

# Begin and end of each stage, as shares of the time for a file: about what bench.engine measures.
STAGES = {"spectrum": (0.0, 0.45), "reduce": (0.45, 0.95), "verify": (0.95, 1.0)}


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

    def settling(self, files: int, seconds: float) -> None:
        """No job may begin: `files` files are quiet in about `seconds` seconds."""

    def waiting(self, path: str, reason: str | None) -> None:
        """Why a file is no job yet; None: it waits no longer."""

    def stopped(self, left: int) -> None:
        """A signal ended lensd, and `left` files are not processed yet."""

    def logged(self, event: Event) -> None:
        """The log has a new line; a JobEnd is the last of its file."""


class LatestStep:
    """The last step of the running job. The job thread sets it, requests read it."""

    def __init__(self) -> None:
        self._step: Step | None = None

    def get(self) -> Step | None:
        return self._step

    def set(self, step: Step) -> None:
        self._step = step


def report_steps(observer: ProgressObserver, ledger: Ledger, latest: LatestStep) -> ReportProgress:
    """The supervisor's progress callback: it finds the path of the job for the observer."""

    def report(job_id: str, stage: str, done: int, of: int) -> None:
        latest.set(Step(f"{stage} {done}/{of}", job_id=job_id, stage=stage, done=done, of=of))
        observer.step(ledger.jobs.get(job_id).full_path, stage, done, of)

    return report
