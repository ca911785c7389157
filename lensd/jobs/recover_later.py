"""What recovery could not put right at the start is tried again, between two jobs.

A program may have had a file open for writing, for example; no event says when it has closed it.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from lensd.jobs import recover
from lensd.jobs.context import JobContext

LONGEST_PAUSE_SECONDS = 900.0


@dataclass(slots=True)
class RecoverLater:
    """The first try comes after the quiet time of a file; the pauses grow. For the job thread."""

    context: JobContext
    _pause: float = 0.0
    _next_try: float = math.inf  # monotonic

    def run_if_due(self) -> bool:
        """Whether it put something right. Raises StorageError."""
        left = self._left()
        if not left:
            self._next_try = math.inf
            return False
        now = time.monotonic()
        if self._next_try == math.inf:
            self._pause = self.context.quiet_seconds
        elif now >= self._next_try:
            self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)
            recover.recover(self.context, report=False)
        else:
            return False
        self._next_try = time.monotonic() + self._pause
        return self._left() < left

    def due_in(self) -> float:
        """In how many seconds the next try is due; infinity if nothing is left."""
        return max(0.0, self._next_try - time.monotonic())

    def _left(self) -> set[str]:
        """The jobs and restores in open roots that a crash or a fault cut off."""
        ledger, closed = self.context.ledger, self.context.root_states.closed
        restores = [ledger.jobs.get(r.job_id) for r in ledger.state.restoring.get() or ()]
        entries = [*self.context.interrupted_jobs(), *restores]
        return {entry.job_id for entry in entries if entry.root not in closed}
