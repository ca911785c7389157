"""A process that is stopped at a moment of its work, for as long as a test needs it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.support.home_server import wait_until

RUN_SECONDS = 0.01


@contextmanager
def held_when(pid: int, holds: Callable[[], bool], what: str) -> Iterator[None]:
    """Stop a process (SIGSTOP) while the block runs, from the moment at which `holds` is true.

    Until then the process runs for RUN_SECONDS at a time and is stopped while `holds` looks, so
    that a state that passes quickly is found on a busy machine as well.
    """

    def run_and_look() -> bool:
        os.kill(pid, signal.SIGCONT)
        time.sleep(RUN_SECONDS)
        os.kill(pid, signal.SIGSTOP)
        return holds()

    try:
        wait_until(run_and_look, what)
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
