"""Events of all threads."""

from __future__ import annotations

import threading
from collections.abc import Callable

from lensd.daemon.event_log import EventLog


class Interrupted(str):
    """An event during whose first comparison another thread has its turn."""

    __slots__ = ("turns",)
    turns: list[Callable[[], None]]

    def __eq__(self, other: object) -> bool:
        if self.turns:
            thread = threading.Thread(target=self.turns.pop())
            thread.start()
            thread.join()
        return str.__eq__(self, other)

    __hash__ = str.__hash__


def test_a_failure_is_not_forgotten() -> None:
    """One thread reports a success just when another one reports a failure: `once` ends with 1."""
    log = EventLog()
    event = Interrupted("file.detected")
    event.turns = [lambda: log("file.failed")]
    log(event)
    assert [] == event.turns
    assert log.has_failures
