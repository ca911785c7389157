"""Threads for the objects of a collection. One whose store hangs does not keep the run from ending.

The threads of concurrent.futures do: Python waits for them at its exit.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue

from lensd.collection.rows import Row

_Work = tuple[Future[Row], Callable[[], Row]]


class Threads:
    """`count` threads at most, which start on demand."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._threads: list[threading.Thread] = []
        self._queue: SimpleQueue[_Work | None] = SimpleQueue()

    def submit(self, work: Callable[[], Row]) -> Future[Row]:
        future: Future[Row] = Future()
        self._queue.put((future, work))
        if len(self._threads) < self._count:
            thread = threading.Thread(target=self._run, daemon=True)
            self._threads.append(thread)
            thread.start()
        return future

    def close(self, seconds: float) -> None:
        """End the threads; one that hangs is left after so many seconds."""
        deadline = time.monotonic() + seconds
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _run(self) -> None:
        while (found := self._queue.get()) is not None:
            future, work = found
            try:
                future.set_result(work())
            except BaseException as error:  # noqa: BLE001  for the thread that waits
                future.set_exception(error)
