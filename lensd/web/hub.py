"""Looks at the daemon while a page is open, and gives what changed to all open pages."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import NamedTuple

LOOK_SECONDS = 0.25
QUIET_SECONDS = 15.0  # then a comment line, so that a proxy keeps the connection


class State(NamedTuple):
    """The text of the changing part of the page, and the version of the table of files."""

    html: str
    version: int


class Hub:
    """`look` runs in a thread, and only while there are subscribers."""

    def __init__(self, look: Callable[[], State]) -> None:
        self._look = look
        self._subscribers = 0
        self._changed = asyncio.Condition()
        self._state: State | None = None
        self.task: asyncio.Task[None] | None = None

    async def follow(self) -> AsyncIterator[bytes]:
        """Server-sent events: `now` with HTML, `table` with a version."""
        self._subscribers += 1
        if self.task is None or self.task.done():
            self.task = asyncio.create_task(self._run())
        known: State | None = None
        try:
            while True:
                state = await self._next(known)
                if state is None:
                    yield b": quiet\n\n"
                    continue
                if known is None or state.html != known.html:
                    yield _event("now", state.html)
                if known is None or state.version != known.version:
                    yield _event("table", state.version)
                known = state
        finally:
            self._subscribers -= 1

    async def _next(self, known: State | None) -> State | None:
        """The next state, or None after a quiet time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(QUIET_SECONDS), self._changed:
                await self._changed.wait_for(
                    lambda: self._state is not None and self._state != known
                )
                return self._state
        return None

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._subscribers:
            began, state = loop.time(), self._state
            with contextlib.suppress(Exception):  # another thread may have closed the ledger, too
                state = await asyncio.to_thread(self._look)
            if state != self._state:
                async with self._changed:
                    self._state = state
                    self._changed.notify_all()
            # a large ledger takes longer: then look less often
            await asyncio.sleep(max(LOOK_SECONDS, 3 * (loop.time() - began)))
        self._state = None  # without looks it would be out of date for the next page


def _event(name: str, data: object) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()
