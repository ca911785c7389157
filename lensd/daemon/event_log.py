"""Where the events of all threads go: the log, the metrics and the progress observer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from lensd.daemon.progress import FAILURES
from lensd.logs import log

LEVELS = {
    "file.kept": "info",
    "file.skipped": "warning",
    "file.postponed": "warning",
    "file.failed": "error",
    "file.quarantined": "error",
    "file.rescued": "warning",
    "worker.crashed": "error",
    "daemon.degraded": "error",
    "daemon.refused": "error",
    "daemon.error": "error",
}

Listener: TypeAlias = Callable[[str, Mapping[str, Any]], None]


def write_event(event: str, **fields: Any) -> None:
    """Write one log line, at the level of its event."""
    getattr(log.get(), LEVELS.get(event, "info"))(event, **fields)


class EventLog:
    """Call it with an event, from any thread. Add all listeners before a second thread starts."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []
        self._failed = threading.Event()

    def add(self, listener: Listener) -> None:
        """`listener(event, fields)` is called in the thread of the event, after the log line."""
        self._listeners.append(listener)

    def __call__(self, event: str, **fields: Any) -> None:
        if event in FAILURES:
            self._failed.set()
        write_event(event, **fields)
        for listener in self._listeners:
            listener(event, fields)

    @property
    def has_failures(self) -> bool:
        """Whether a file has failed or was quarantined."""
        return self._failed.is_set()
