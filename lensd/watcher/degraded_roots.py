"""Which watched folders are degraded, for `lensd status` and the metrics.

Each root's thread reports its own root; the thread `answers` reports roots that do not answer. One
lock protects all of it.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

from lensd.store.ledger import Ledger
from lensd.store.ledger.notes import DegradedRoot


class DegradedRoots:
    """The notes by root. A root that does not answer has that note and no other."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._lock = threading.Lock()
        self._notes: dict[str, DegradedRoot] = {}
        self._silent: dict[str, DegradedRoot] = {}
        self._written: dict[str, DegradedRoot] | None = None  # None: a killed lensd left some
        self._names: frozenset[str] = frozenset()

    @property
    def names(self) -> frozenset[str]:
        """The names of the watches. From any thread."""
        return self._names

    def set(self, notes: Mapping[str, DegradedRoot | None]) -> None:
        """Replace the notes of these roots. Raises StorageError when the ledger cannot have it."""
        self._replace(self._notes, notes)

    def set_silent(self, root: str, note: DegradedRoot | None) -> None:
        """The root does not answer; None: it does again. Raises StorageError as `set` does."""
        self._replace(self._silent, {root: note})

    def clear(self) -> None:
        """Raises StorageError as `set` does."""
        self._ledger.state.degraded.clear()

    def _replace(
        self, known: dict[str, DegradedRoot], notes: Mapping[str, DegradedRoot | None]
    ) -> None:
        with self._lock:
            for root, note in notes.items():
                if note is None:
                    known.pop(root, None)
                else:
                    known[root] = note
            now = {**self._notes, **self._silent}
            self._names = frozenset(note.watch for note in now.values())
            if now == self._written:
                return
            if now:
                self._ledger.state.degraded.set(tuple(now.values()))
            else:
                self.clear()
            self._written = now
