"""Which watched folders are open to jobs. One lock protects all of it.

The thread of a root checks it, and opens and closes it; the job thread asks before it begins a job
in one, and before it decides how a job ends. A folder that does not answer is silent, and closed.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence

from lensd.store.ledger import RootIdentity
from lensd.watcher import root_identity
from lensd.watcher.hints import Hints
from lensd.watcher.root_answers import JOB_SECONDS, Question


class RootStates:
    """All roots are closed at first. A root that it was not made with is always open.

    `asked` are roots and disks (the archive) that must answer before a job begins.
    """

    def __init__(self, roots: Iterable[str], hints: Hints, asked: Sequence[str] = ()) -> None:
        self._hints = hints
        self._lock = threading.Lock()
        self._identities: dict[str, RootIdentity | None] = dict.fromkeys(roots)
        self._closed = frozenset(self._identities)
        self._silent: frozenset[str] = frozenset()
        self._hanging: frozenset[str] = frozenset()
        self.questions = {path: Question(path) for path in asked}

    @property
    def closed(self) -> frozenset[str]:
        """Roots whose jobs must wait. From any thread."""
        return self._closed | self._silent

    @property
    def shut(self) -> frozenset[str]:
        """The closed ones that a check has closed, or not opened yet. From any thread."""
        return self._closed

    @property
    def silent(self) -> frozenset[str]:
        """Roots and disks that did not answer at once. From any thread."""
        return self._silent

    @property
    def hanging(self) -> frozenset[str]:
        """The silent ones that have not answered for long. From any thread."""
        return self._hanging

    def answers(self, path: str) -> bool:
        """Whether a root or a disk answers; else it is silent. True for others. From any thread."""
        question = self.questions.get(path)
        if question is None:
            return True
        if path in self._silent:
            return False
        if question.is_answered_within(JOB_SECONDS):
            return True
        self.silence(path)
        return False

    def silence(self, path: str) -> None:
        """A root or a disk does not answer at once: its jobs must wait. From any thread."""
        with self._lock:
            self._silent |= {path}

    def note_hanging(self, path: str) -> None:
        """A root or a disk has not answered for long."""
        with self._lock:
            self._silent |= {path}
            self._hanging |= {path}

    def end_silence(self, path: str) -> None:
        """A root or a disk answers again."""
        with self._lock:
            self._silent -= {path}
            self._hanging -= {path}

    def device(self, root: str) -> int | None:
        """The device of a root at its last check; None: it was never there. From any thread."""
        with self._lock:
            identity = self._identities.get(root)
        return None if identity is None else identity.device

    def open(self, root: str, identity: RootIdentity) -> None:
        """Jobs may begin in the folder that has this identity."""
        with self._lock:
            self._identities[root] = identity
            self._closed -= {root}

    def close(self, root: str) -> None:
        """Jobs must wait."""
        with self._lock:
            self._closed |= {root}

    def must_wait(self, root: str) -> bool:
        """The job thread: whether jobs of a root must wait, by a look at the folder as it is now.

        Closes a root that is another folder than its thread saw, and gives a hint of it.
        """
        with self._lock:
            if root not in self._identities:
                return False
            expected = self._identities[root]
            if root in self.closed or expected is None:
                return True
        if not self.answers(root):
            return True
        if _is_there(root, expected):
            return False
        with self._lock:
            if self._identities[root] != expected:  # its thread has accepted a new folder
                return root in self._closed
            self._closed |= {root}
        self._hints.note_changed_root(root)
        return True


def _is_there(root: str, expected: RootIdentity) -> bool:
    try:
        return root_identity.probe(root).identity == expected
    except OSError:
        return False
