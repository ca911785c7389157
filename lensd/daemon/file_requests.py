"""Requests that change files: they wait for the thread that takes jobs, which runs them."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import NamedTuple

from lensd.errors import LensdError


class WaitingRequest(NamedTuple):
    """`root`: the only one that the request works in, None for any."""

    request: Callable[[], int]
    result: Future[int]
    root: str | None

    def run(self) -> None:
        try:
            self.result.set_result(self.request())
        except BaseException as error:  # noqa: BLE001  it belongs to the thread that waits
            self.result.set_exception(error)


class FileRequests:
    """Any thread adds requests; one thread takes them."""

    def __init__(self) -> None:
        self._waiting: deque[WaitingRequest] = deque()

    @property
    def has_for_any_root(self) -> bool:
        """Whether one waits that may work in any root."""
        return any(waiting.root is None for waiting in tuple(self._waiting))

    def add(self, request: Callable[[], int], root: str | None) -> Future[int]:
        """The result is the exit code of the request, or what it raises."""
        result: Future[int] = Future()
        self._waiting.append(WaitingRequest(request, result, root))
        return result

    def take(self, busy: frozenset[str], answering: frozenset[str]) -> WaitingRequest | None:
        """The first one that works in no root with a job.

        `busy`: the roots with jobs; `answering`: those of them that a request for any root must
        wait for.
        """
        for waiting in tuple(self._waiting):
            if waiting.root in busy or (waiting.root is None and answering):
                continue
            self._waiting.remove(waiting)
            return waiting
        return None

    def put_back(self, waiting: WaitingRequest) -> None:
        """The thread may not run it; the next one does."""
        self._waiting.appendleft(waiting)

    def dismiss(self) -> None:
        """Answer all of them: no thread will run them."""
        stopping = LensdError("lensd is stopping; try again when it is back")
        with contextlib.suppress(IndexError):
            while True:
                self._waiting.popleft().result.set_exception(stopping)
