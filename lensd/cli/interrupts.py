"""Delays ^C and SIGTERM while torch is imported."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def delay_interrupts() -> Iterator[None]:
    """^C and SIGTERM take effect after the block.

    During its import, torch would take the exception for a missing numpy, ignore it, and continue.
    """
    received: list[int] = []
    before = {
        number: signal.signal(number, lambda n, _: received.append(n))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if received:
            signal.raise_signal(received[0])
