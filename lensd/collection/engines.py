"""The worker processes of this machine that compress the objects of a collection."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from queue import Empty, LifoQueue

from lensd.logs.events import Event
from lensd.worker import isolated, memory
from lensd.worker.supervisor import Worker
from lensd.worker.workers import POLL_SECONDS, Abandoned

REQUEST_SECONDS = 1800.0
IDLE_SECONDS = 300.0
NICE = 10


class Engines:
    """`count` worker processes at most, which start on demand. For any number of threads.

    `folder` holds files while they are worked on; None: where the system keeps temporary files.
    """

    def __init__(self, count: int, folder: str | None = None) -> None:
        self.count = count
        self.folder = folder
        self._stopping = threading.Event()
        self._idle: LifoQueue[Worker] = LifoQueue()
        self._all = [_make_worker(count) for _ in range(count)]
        for worker in self._all:
            self._idle.put(worker)

    @contextmanager
    def worker(self) -> Iterator[Worker]:
        """A worker that no other thread uses. Raises Abandoned after `stop`."""
        worker = self._wait_for_worker()
        try:
            yield worker
        finally:
            self._idle.put(worker)

    def is_stopping(self) -> bool:
        return self._stopping.is_set()

    def pause(self, seconds: float) -> None:
        """Raises Abandoned after `stop`, also during the pause."""
        if self._stopping.wait(seconds):
            raise Abandoned

    def stop(self) -> None:
        """Give up all requests. From any thread."""
        self._stopping.set()

    def close(self) -> None:
        """End the processes, when no thread uses them any more."""
        for worker in self._all:
            worker.stop("shutdown")

    def _wait_for_worker(self) -> Worker:
        while not self._stopping.is_set():
            try:
                return self._idle.get(timeout=POLL_SECONDS)
            except Empty:
                continue
        raise Abandoned


def _make_worker(of: int) -> Worker:
    """One of several, which share the memory."""
    return Worker(
        isolated.command("lensd.engine"),
        _ignore,
        REQUEST_SECONDS,
        IDLE_SECONDS,
        NICE,
        memory.limit("auto", of),
    )


def _ignore(event: Event) -> None:
    """A crash is in the row of its object."""
