"""What the job thread needs of the processes that compute: start tasks, and wait for their ends.

`pool.WorkerPool` has one process per task. Another implementation may have one process for many
tasks: each request has a `job_id`, and an answer with that `job_id` belongs to it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

from lensd.errors import Reason
from lensd.worker.request import AnalyzeResult, AnyRequest, Bug, CompressResult, Refused

# A wait for answers is no longer, so that `give_up` is asked often.
POLL_SECONDS = 0.2
STUCK_SECONDS = 60.0  # after a longer wait the waiting thread itself hangs

GiveUp = Callable[[], bool]
End: TypeAlias = CompressResult | AnalyzeResult | Refused | Bug
ENDS: tuple[type[End], ...] = (CompressResult, AnalyzeResult, Refused, Bug)
ReportProgress = Callable[[str, str, int, int], None]  # job_id, stage, done, of how many


class WorkerLost(Exception):
    """The worker ended or had to be ended: worker_crashed, worker_timeout or worker_memory."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Abandoned(Exception):
    """The task was given up: the daemon is stopping, or the file changed."""


@dataclass(frozen=True, slots=True)
class Task:
    """A request, and whether it is to be given up: that is asked until the answer is there.

    A request to Workers has a `job_id` that no other running task has.
    """

    request: AnyRequest
    give_up: GiveUp


class Ended(NamedTuple):
    """The end of a task: an answer, or the exception with which the job continues.

    That is WorkerLost, Abandoned, or any other one as a bug.
    """

    job_id: str
    result: End | Exception


class Workers(Protocol):
    """Processes that compute. One thread at a time uses them, but `is_fresh`."""

    @property
    def capacity(self) -> int:
        """How many tasks are to run at once. `start` takes more, if there is a reason."""

    def start(self, task: Task) -> None:
        """Begin a task; does not wait for its process. Raises WorkerLost, WorkerUnavailable."""

    def wait(self, seconds: float) -> list[Ended]:
        """The tasks that have ended, after `seconds` (POLL_SECONDS at most) if none has as yet.

        It also ends the processes that hang, or use too much memory.
        """

    def end_idle(self) -> float:
        """End the processes that were idle for long. In how many seconds it has to be called."""

    def stop(self, reason: str) -> None:
        """End all processes. The tasks that run have no end then."""

    def is_fresh(self, now: float) -> bool:
        """Whether no call of `wait` hangs, as of `now` (monotonic). From any thread."""
