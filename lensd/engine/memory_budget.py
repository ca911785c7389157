"""Memory for the batches that are computed at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class MemoryBudget:
    """Bytes that batches take while they are computed.

    A batch that does not fit waits, and those after it too: the results of batches that overtake it
    would be kept until its own is there.
    """

    def __init__(self, size: float) -> None:
        self._size = size
        self._taken = 0.0
        self._changed = threading.Condition()
        self._first = threading.Lock()

    @contextmanager
    def take(self, amount: float) -> Iterator[None]:
        """Wait until `amount` bytes fit; if they are more than `size`, until all are free."""
        with self._first, self._changed:
            self._changed.wait_for(lambda: not self._taken or self._taken + amount <= self._size)
            self._taken += amount
        try:
            yield
        finally:
            with self._changed:
                self._taken -= amount
                self._changed.notify_all()
