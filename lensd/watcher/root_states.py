"""Which watched folders are open to jobs. The main loop and the job thread share this.

The main loop checks the folders, and opens and closes them; the job thread asks before it begins a
job in one, and before it decides how a job ends. One lock protects all of it.
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
        self._degraded: frozenset[str] = frozenset()

    @property
    def closed(self) -> frozenset[str]:
        """Roots whose jobs must wait. From any thread."""
        return self._closed

    @property
    def degraded(self) -> frozenset[str]:
        """Names of the watches that are degraded. From any thread."""
        return self._degraded

    def device(self, root: str) -> int | None:
        """The device of a root, as far as the main loop knows it. From any thread."""
        with self._lock:
            identity = self._identities.get(root)
        return None if identity is None else identity.device

    def open(self, root: str, identity: RootIdentity) -> None:
        """The main loop: jobs may begin in the folder that has this identity."""
        with self._lock:
            self._identities[root] = identity
            self._closed -= {root}

    def close(self, root: str) -> None:
        """The main loop: jobs must wait."""
        with self._lock:
            self._closed |= {root}

    def set_degraded(self, names: Iterable[str]) -> None:
        """The main loop: publish the names of the degraded watches."""
        self._degraded = frozenset(names)

    def must_wait(self, root: str) -> bool:
        """The job thread: whether jobs of a root must wait, by a look at the folder as it is now.

        Closes a root that is another folder than the main loop saw, and gives a hint of it.
        """
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
