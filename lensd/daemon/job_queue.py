"""Which job begins next: the folders take turns, and a small file need not wait for large ones."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import count

from lensd.jobs.context import JobContext
from lensd.store.ledger.entry import Entry


class JobQueue:
    """The queued jobs in the ledger. Only the thread that takes jobs now uses it, but `next`."""

    def __init__(self, context: JobContext, roots: Iterable[str]) -> None:
        self._context = context
        self._turns = dict.fromkeys(roots, 0)  # the number of the last job of each root
        self._numbers = count(1)

    def next(self, waiting: frozenset[str] = frozenset()) -> Entry | None:
        """The oldest job that may begin outside of the roots that wait. From any thread."""
        return self._find(waiting, root=None, smallest=False)

    def choose(self, waiting: frozenset[str], *, smallest: bool) -> Entry | None:
        """The job to begin: of the root whose last turn is longest ago, its oldest or smallest.

        Rows of folders that are not watched any more come last.
        """
        states = self._context.root_states
        for root in sorted(self._turns, key=self._turns.__getitem__):
            if root in states.closed or root in waiting:
                continue
            entry = self._find(waiting, root=root, smallest=smallest)
            if entry is None or self._is_running_at(entry) or states.must_wait(root):
                continue
            self._turns[root] = next(self._numbers)
            return entry
        return self._find(waiting.union(self._turns), root=None, smallest=False)

    def _find(self, waiting: frozenset[str], *, root: str | None, smallest: bool) -> Entry | None:
        context = self._context
        # `once` treats the files now, whatever is paused or postponed
        return context.ledger.jobs.next_queued(
            None if context.patient else math.inf,
            root=root,
            without=context.root_states.closed | waiting,
            but=(*context.given_up, *context.running),
            heed_pauses=context.patient,
            smallest=smallest,
        )

    def _is_running_at(self, entry: Entry) -> bool:
        """Whether a job for an older version of the file has not ended yet."""
        running = self._context.running.values()
        return any((e.root, e.path) == (entry.root, entry.path) for e in running)
