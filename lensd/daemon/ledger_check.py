"""Finds that the ledger was deleted or replaced while lensd runs."""

from __future__ import annotations

import math
from concurrent.futures import Future

from lensd.store.deadline import begin
from lensd.store.ledger import Ledger

ASK_SECONDS = 3.0  # the main loop asks and sees the answer up to 1 s later each


class LedgerCheck:
    """For the main loop. A state folder that hangs holds one thread, and not the loop."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._answer: Future[None] | None = None
        self._ask_at = -math.inf

    def require_in_place(self, now: float) -> None:
        """Returns at once. Raises StorageError within 5 s of the ledger's loss of its name."""
        if self._answer is None:
            if now >= self._ask_at:
                self._ask_at = now + ASK_SECONDS
                self._answer = begin(self._ledger.require_in_place)
        elif self._answer.done():
            answer, self._answer = self._answer, None
            answer.result()
