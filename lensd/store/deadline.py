"""Calls with a deadline, for a filesystem that may hang: its server does not answer."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

from lensd.errors import StorageError

T = TypeVar("T")
ANSWER_SECONDS = 2.0
_LOOK_SECONDS = 0.5


def begin(call: Callable[[], T]) -> Future[T]:
    """What `call` returns or raises, later. It runs in a thread, which a hang alone costs."""
    result: Future[T] = Future()

    def run() -> None:
        try:
            result.set_result(call())
        except BaseException as error:  # noqa: BLE001  it belongs to the caller
            result.set_exception(error)

    threading.Thread(target=run, name="deadline", daemon=True).start()
    return result


def within(
    seconds: float,
    call: Callable[[], T],
    give_up: Callable[[], bool] = lambda: False,
    where: Callable[[], str] = lambda: "a filesystem",
) -> T:
    """What `call` returns or raises; see `begin`.

    Raises StorageError when there is no answer in time, or `give_up()` is true meanwhile; its
    message says `where()`.
    """
    result = begin(call)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not give_up():
        done, _ = wait([result], min(seconds, _LOOK_SECONDS))
        if done:
            return result.result()
    raise StorageError(
        f"{where()} does not answer: its server, or its disk, hangs. Start the server again, or "
        "unmount the folder (umount -l)"
    )


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
