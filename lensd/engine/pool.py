"""A pool of threads for independent tasks, and the seconds that they take."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")

# Tasks of each thread that are begun before the result of the oldest is taken: its result waits in
# memory, while the others go on.
AHEAD = 3


@dataclass(slots=True)
class Clock:
    """The seconds of each kind of work, averaged over the pool's threads."""

    threads: int
    spent: dict[str, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def measure(self, kind: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            took = (time.monotonic() - began) / self.threads
            with self._lock:
                self.spent[kind] = self.spent.get(kind, 0.0) + took


def map_in_order(threads: int, work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Yield the results of all items, in their order."""
    remaining = iter(items)
    with single_threaded_pool(threads) as pool:
        begun: deque[Future[R]] = deque()
        try:
            while True:
                ahead = threads * AHEAD - len(begun)
                begun.extend(pool.submit(work, item) for item in islice(remaining, ahead))
                if not begun:
                    return
                yield begun.popleft().result()
        finally:
            for future in begun:
                future.cancel()


def single_threaded_pool(threads: int) -> ThreadPoolExecutor:
    """Return a pool whose threads use one core each for torch operations.

    Each thread sets this at its start. Otherwise torch splits the first products between cores, and
    their rounding differs from run to run.
    """
    return ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))


def threads_of(processes: int) -> int:
    """Return how many threads compute in each of so many processes that share the cores.

    The result does not depend on it.
    """
    return -(-available_cores() // processes)


def available_cores() -> int:
    return max(1, len(os.sched_getaffinity(0)))
