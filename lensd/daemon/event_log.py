"""Where the events of all threads go: the log, the metrics and the progress observer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeAlias

from lensd.logs import log
from lensd.logs.events import Event, Failure

Listener: TypeAlias = Callable[[Event], None]


class EventLog:
    """Call it with an event, from any thread. Add all listeners before a second thread starts."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []
        self._failed = threading.Event()

    def add(self, listener: Listener) -> None:
        """`listener(event)` is called in the thread of the event, after the log line."""
        self._listeners.append(listener)

    def __call__(self, event: Event) -> None:
        if isinstance(event, Failure):
            self._failed.set()
        log.emit(event)
        for listener in self._listeners:
            listener(event)

    @property
    def has_failures(self) -> bool:
        """Whether a file has failed or was quarantined."""
        return self._failed.is_set()
