"""Worker processes side by side, each with one task at a time."""

from __future__ import annotations

import math
import selectors
import time
from collections.abc import Callable

from msgspec import structs

from lensd.worker.supervisor import Worker
from lensd.worker.workers import POLL_SECONDS, STUCK_SECONDS, Ended, Task


class WorkerPool:
    """`capacity` processes, which start on demand (lensd.worker.workers describes the methods)."""

    def __init__(self, make_worker: Callable[[], Worker], capacity: int) -> None:
        self.capacity = capacity
        self._make_worker = make_worker
        self._workers: list[Worker] = []
        self._wait_began: float | None = None

    def start(self, task: Task) -> None:
        idle = [worker for worker in self._workers if not worker.is_busy]
        busy = len(self._workers) - len(idle)
        request = structs.replace(task.request, processes=min(busy + 1, self.capacity))
        worker = max(idle, key=lambda worker: worker.running, default=None)
        if worker is None:
            worker = self._make_worker()
            self._workers.append(worker)
        worker.begin(Task(request, task.give_up))

    def wait(self, seconds: float) -> list[Ended]:
        self._wait_began = time.monotonic()
        try:
            self._select(min(seconds, POLL_SECONDS))
            return self._collect()
        finally:
            self._wait_began = None

    def end_idle(self) -> float:
        due_in = math.inf
        for worker in self._workers:
            if worker.idle_ends_in() <= 0:
                worker.stop("idle")
            due_in = min(due_in, worker.idle_ends_in())
        return due_in

    def stop(self, reason: str) -> None:
        for worker in self._workers:
            worker.stop(reason)

    def is_fresh(self, now: float) -> bool:
        began = self._wait_began
        return began is None or now - began < STUCK_SECONDS

    def _busy(self) -> list[Worker]:
        return [worker for worker in self._workers if worker.is_busy]

    def _select(self, seconds: float) -> None:
        with selectors.DefaultSelector() as selector:
            for worker in self._busy():
                selector.register(worker, selectors.EVENT_READ)
            selector.select(seconds)

    def _collect(self) -> list[Ended]:
        ended = []
        for worker in self._busy():
            job_id = worker.job_id or ""
            try:
                result = worker.poll()
            except Exception as error:  # noqa: BLE001  it belongs to this one task
                ended.append(Ended(job_id, error))
            else:
                if result is not None:
                    ended.append(Ended(job_id, result))
        self._end_surplus()
        return ended

    def _end_surplus(self) -> None:
        """End the processes that were started beyond the capacity, when they have no task."""
        surplus = len(self._workers) - self.capacity
        for worker in [w for w in self._workers if not w.is_busy][: max(0, surplus)]:
            worker.stop("idle")
            self._workers.remove(worker)
