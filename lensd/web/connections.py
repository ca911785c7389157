"""Closes connections on which no complete request comes, so that they take no place from pages."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

REQUEST_SECONDS = 10.0  # for all of a request


class TimedConnection(H11Protocol):
    """uvicorn itself waits for ever for the first request of a connection, and for its body."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._expiry: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._limit_wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._limit_wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _limit_wait(self) -> None:
        """More bytes of the same request give it no more time."""
        request = self.cycle
        if request is not None and not (request.response_complete or request.more_body):
            self._stop_waiting()
        elif self._expiry is None:
            self._expiry = self.loop.call_later(REQUEST_SECONDS, self._expire)

    def _stop_waiting(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None

    def _expire(self) -> None:
        self.transport.close()
