"""The jobs that have begun: each waits for its worker process, or makes its next step."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from lensd.jobs.compress import Job
from lensd.jobs.context import JobContext
from lensd.store.ledger.entry import Entry
from lensd.worker.workers import End, Task, Workers

# What a job continues with: nothing at its begin, the end of its task, or a task that it has found.
Given: TypeAlias = Task | End | Exception | None


@dataclass(frozen=True, slots=True, eq=False)
class RunningJob:
    """`steps` runs the job up to its next task, and from there to its end.

    `is_smallest`: it was chosen as the smallest of the queue.
    """

    entry: Entry
    steps: Job
    is_smallest: bool
    began: float = field(default_factory=time.monotonic)


class RunningJobs:
    """Only the thread that takes jobs now uses it, but `roots` and `hand_over`."""

    def __init__(
        self, context: JobContext, workers: Workers, on_end: Callable[[Entry], None]
    ) -> None:
        self._smallest = ""  # the last job that was chosen so
        self._on_end = on_end
        self._running = context.running
        self._root_states = context.root_states
        self._workers = workers
        self._waiting: dict[str, RunningJob] = {}  # for the end of a task, by job
        self._lock = threading.Lock()  # for the two below
        self._handed_over: list[tuple[RunningJob, Given]] = []
        self._is_closed = False

    def __bool__(self) -> bool:
        return bool(self._waiting or self._handed_over)

    @property
    def roots(self) -> frozenset[str]:
        """Where jobs have begun and not ended. From any thread."""
        return frozenset(entry.root for entry in tuple(self._running.values()))

    def may_begin(self) -> bool:
        """Whether another job may begin. Those in a folder that hangs do not count."""
        hanging = self._root_states.hanging
        count = sum(entry.root not in hanging for entry in self._running.values())
        return count < self._workers.capacity

    @property
    def wants_smallest(self) -> bool:
        """Whether the next job is to be the smallest: one process of several is for such files."""
        return self._workers.capacity > 1 and self._smallest not in self._running

    def add(self, job: RunningJob) -> None:
        """The job is about to begin."""
        self._running[job.entry.job_id] = job.entry
        if job.is_smallest:
            self._smallest = job.entry.job_id

    def remove(self, job: RunningJob) -> None:
        """The job has ended."""
        self._running.pop(job.entry.job_id, None)
        self._on_end(job.entry)

    def hand_over(self, job: RunningJob, given: Given) -> None:
        """Let the thread that takes jobs now continue a job. From any thread."""
        with self._lock:
            if not self._is_closed:
                self._handed_over.append((job, given))
                return
        job.steps.close()

    def wait(self, seconds: float) -> list[tuple[RunningJob, Given]]:
        """The jobs that can continue, after `seconds` if there is none before.

        Those in folders that hang come last.
        """
        with self._lock:
            found, self._handed_over = self._handed_over, []
        for job_id, result in self._workers.wait(0.0 if found else seconds):
            found.append((self._waiting[job_id], result))
        hanging = self._root_states.hanging
        return sorted(found, key=lambda pair: pair[0].entry.root in hanging)

    def step(self, job: RunningJob, given: Given, is_current: Callable[[], bool]) -> bool:
        """Run the job up to its next task and begin that. False if the job has ended.

        A thread that is not the current one after the step, since a folder held it for long, hands
        the job over. Raises StorageError.
        """
        self._waiting.pop(job.entry.job_id, None)
        task = given if isinstance(given, Task) else _advance(job, given)
        while task is not None:
            if not is_current():
                self.hand_over(job, task)
                return True
            try:
                self._workers.start(task)
            except Exception as error:  # noqa: BLE001  the job decides what follows from it
                task = _advance(job, error)
            else:
                self._waiting[job.entry.job_id] = job
                return True
        return False

    def close(self) -> None:
        """Leave all jobs to the next start, and remove what they have staged.

        No thread continues jobs after this.
        """
        with self._lock:
            self._is_closed = True
            left = [*self._waiting.values(), *(job for job, _ in self._handed_over)]
        for job in left:
            job.steps.close()


def _advance(job: RunningJob, result: End | Exception | None) -> Task | None:
    """The next task of the job; None at its end."""
    try:
        if isinstance(result, Exception):
            return job.steps.throw(result)
        return next(job.steps) if result is None else job.steps.send(result)
    except StopIteration:
        return None
