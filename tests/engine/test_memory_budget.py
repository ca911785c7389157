"""Memory for the batches that are computed at once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from lensd.engine.memory_budget import MemoryBudget
from tests.support.limits import PATIENCE


def test_batches_that_do_not_fit_wait() -> None:
    """Never more than the size is taken, except by one batch that is larger and so alone."""
    budget, lock = MemoryBudget(100), threading.Lock()
    taken: list[float] = []
    seen: list[list[float]] = []

    def work(amount: float) -> None:
        with budget.take(amount):
            with lock:
                taken.append(amount)
                seen.append(list(taken))
            with lock:
                taken.remove(amount)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, [30, 70, 100, 1, 250, 50, 60, 40] * 50, timeout=PATIENCE))
    assert len(seen) == 400
    assert all(sum(together) <= 100 or together == [250] for together in seen)


def test_none_overtakes_a_batch_that_waits() -> None:
    """A small one would fit, but waits behind the large one."""
    budget = MemoryBudget(100)
    order: list[str] = []
    started = threading.Event()

    def work(name: str, amount: float) -> None:
        started.set()
        with budget.take(amount):
            order.append(name)

    with ThreadPoolExecutor(2) as pool:
        with budget.take(50):
            large = pool.submit(work, "large", 100)
            assert started.wait(PATIENCE)
            while not budget._first.locked():
                pass
            small = pool.submit(work, "small", 10)
        for one in (large, small):
            one.result(PATIENCE)
    assert order == ["large", "small"]
