"""Calls with a deadline, for a filesystem that may hang: its server does not answer."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from lensd.errors import StorageError

T = TypeVar("T")
ANSWER_SECONDS = 2.0


def within(seconds: float, call: Callable[[], T]) -> T:
    """What `call` returns or raises. It runs in a thread, which a hang alone costs.

    Raises StorageError when there is no answer in time.
    """
    result: Future[T] = Future()

    def run() -> None:
        try:
            result.set_result(call())
        except BaseException as error:  # noqa: BLE001  it belongs to the caller
            result.set_exception(error)

    threading.Thread(target=run, name="deadline", daemon=True).start()
    try:
        return result.result(seconds)
    except TimeoutError:
        if result.done():  # the call itself raised it: an OSError
            raise
        raise StorageError(
            "a filesystem does not answer: its server, or its disk, hangs. Start the server again, "
            "or unmount the folder (umount -l)"
        ) from None


def answers(folder: str) -> bool:
    """Whether the filesystem of a folder answers, also with an error."""
    try:
        within(ANSWER_SECONDS, lambda: os.statvfs(folder))
    except StorageError:
        return False
    except OSError:
        return True
    return True


def real_path(path: str) -> str:
    """`os.path.realpath`; names on a filesystem that does not answer are taken for no links."""
    try:
        return within(ANSWER_SECONDS, lambda: os.path.realpath(path))
    except StorageError:
        above, name = os.path.split(os.path.abspath(path))
        return os.path.join(real_path(above), name)
