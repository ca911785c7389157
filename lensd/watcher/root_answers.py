"""Whether the filesystem of a folder answers: a question in a thread of its own, with a deadline.

A call to a FUSE or network filesystem whose server hangs does not return. So the question costs a
thread for as long as the server hangs, and nothing else.
"""

from __future__ import annotations

import math
import os
import threading
import time
from contextlib import suppress

# For a job that may begin: other jobs wait meanwhile.
JOB_SECONDS = 1.0
FRESH_SECONDS = 1.0  # an answer is true for so long


class Question:
    """Asks one folder with statvfs(3), which network filesystems do not answer from a cache.

    A local disk answers it from memory, so that a disk may sleep. From any thread.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._is_answered = threading.Event()
        self._is_answered.set()
        self._answered = -math.inf  # monotonic

    @property
    def is_open(self) -> bool:
        """Whether the last question is not answered yet. An error is an answer."""
        return not self._is_answered.is_set()

    def ask(self) -> None:
        """Ask, unless a question is open. Returns at once."""
        with self._lock:
            if self.is_open:
                return
            self._is_answered.clear()
        threading.Thread(target=self._ask, name="question", daemon=True).start()

    def is_answered_within(self, seconds: float) -> bool:
        """Ask and wait for the answer, unless the last one is fresh."""
        if not self.is_open and time.monotonic() - self._answered < FRESH_SECONDS:
            return True
        self.ask()
        return self._is_answered.wait(seconds)

    def _ask(self) -> None:
        with suppress(OSError):
            os.statvfs(self._folder)
        self._answered = time.monotonic()
        self._is_answered.set()
