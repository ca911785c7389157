"""Threads that a folder holds: their call to its filesystem has not returned."""

from __future__ import annotations

import threading
from collections.abc import Iterable


class Stragglers:
    """No other thread may work in a root until these end. They outlive a reload. From any thread.

    A straggler ends as soon as its call has returned and it has finished the one file it had.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._roots: dict[threading.Thread, frozenset[str]] = {}

    def add(self, thread: threading.Thread, roots: Iterable[str]) -> None:
        """The thread may be held by any of these roots."""
        with self._lock:
            self._roots[thread] = frozenset(roots)

    def are_in(self, root: str) -> bool:
        """Whether a thread from before may still work in a root."""
        return any(root in roots for roots in self._find_alive().values())

    def exist(self) -> bool:
        return bool(self._find_alive())

    def _find_alive(self) -> dict[threading.Thread, frozenset[str]]:
        with self._lock:
            self._roots = {t: roots for t, roots in self._roots.items() if t.is_alive()}
            return dict(self._roots)
