"""Imports torch for a command."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from lensd.engine.uncollected import uncollected


@contextmanager
def importing_torch() -> Iterator[None]:
    """For a block that imports torch, which takes a second. ^C and SIGTERM take effect after it.

    During its import, torch would take the exception for a missing numpy, ignore it, and continue.
    """
    received: list[int] = []
    before = {
        number: signal.signal(number, lambda n, _: received.append(n))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        with uncollected():
            yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if received:
            signal.raise_signal(received[0])
