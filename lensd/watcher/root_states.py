"""Which watched folders may be changed now, and by which thread.

The main loop checks the folders and decides; the job thread enters a folder before it changes
anything there. One lock protects all of it: a folder that the main loop repairs after a return is
closed to jobs, and the main loop does not begin to repair while a job is in it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

from lensd.store.ledger import RootIdentity
from lensd.watcher import root_identity
from lensd.watcher.hints import Hints


class RootStates:
    """All roots are closed at first. A root that it was not made with is always open."""

    def __init__(self, roots: Iterable[str], hints: Hints) -> None:
        self._hints = hints
        self._lock = threading.Lock()
        self._identities: dict[str, RootIdentity | None] = dict.fromkeys(roots)
        self._closed = frozenset(self._identities)
        self._repaired: str | None = None
        self._entered: frozenset[str] = frozenset()

        self._degraded: frozenset[str] = frozenset()

    @property
    def degraded(self) -> frozenset[str]:
        """Names of the watches that are degraded. From any thread."""
        return self._degraded

    @property
    def closed(self) -> frozenset[str]:
        """Roots whose jobs must wait. From any thread."""
        return self._closed

    # the main loop

    def open(self, root: str, identity: RootIdentity) -> None:
        """Jobs may begin in the folder that has this identity."""
        with self._lock:
            self._identities[root] = identity
            self._closed -= {root}

    def close(self, root: str) -> None:
        """Jobs must wait."""
        with self._lock:
            self._closed |= {root}

    def set_degraded(self, names: Iterable[str]) -> None:
        """Publish the names of the degraded watches."""
        self._degraded = frozenset(names)

    def begin_repair(self, root: str) -> bool:
        """Keep the job thread out of a closed root; False while it is still in there."""
        with self._lock:
            if root in self._entered:
                return False
            self._repaired = root
            return True

    def end_repair(self) -> None:
        """Let requests enter all roots again."""
        with self._lock:
            self._repaired = None

    # the job thread

    def enter(self, root: str) -> bool:
        """Whether the job thread may now change files of the root; if so, it must `leave`."""
        if self.must_wait(root):
            return False
        with self._lock:
            if root in self._closed:
                return False
            self._entered = frozenset({root})
            return True

    def enter_all(self) -> bool:
        """As `enter`, for a request: any root, whatever its state. False during a repair."""
        with self._lock:
            if self._repaired is not None:
                return False
            self._entered = frozenset(self._identities)
            return True

    def leave(self) -> None:
        """The job thread has ended what it did."""
        with self._lock:
            self._entered = frozenset()

    def must_wait(self, root: str) -> bool:
        """Whether jobs of a root must wait, by a look at the folder as it is at this moment."""
        with self._lock:
            if root not in self._identities:
                return False
            expected = self._identities[root]
            if root in self._closed or expected is None:
                return True
        if _is_there(root, expected):
            return False
        with self._lock:
            if self._identities[root] != expected:  # the main loop has accepted a new folder
                return root in self._closed
            self._closed |= {root}
        self._hints.note_changed_root(root)
        return True


def _is_there(root: str, expected: RootIdentity) -> bool:
    try:
        return root_identity.probe(root).identity == expected
    except OSError:
        return False
