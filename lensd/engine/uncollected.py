"""Imports torch without garbage collections. This module does not import it."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """No garbage collection in the block, and none of its objects later.

    torch's objects live as long as the process. Collections would visit them again and again while
    torch is imported: a quarter of the processor time of that import.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
