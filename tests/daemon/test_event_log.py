"""Events of all threads."""

from __future__ import annotations

import threading

from lensd.daemon.event_log import EventLog
from lensd.errors import Reason
from lensd.logs.events import DaemonPaused, Event, FileFailed

PAUSED = DaemonPaused(paths=[])
FAILED = FileFailed(
    path="/srv/loras/a.safetensors", watch="loras", job_id="1", reason=Reason.IO_ERROR, message="x"
)


def test_a_failure_is_not_forgotten() -> None:
    """Another thread reports a failure while an event is handled: `once` ends with 1."""
    log = EventLog()

    def fail_meanwhile(event: Event) -> None:
        if event is PAUSED:
            thread = threading.Thread(target=log, args=(FAILED,))
            thread.start()
            thread.join()

    log.add(fail_meanwhile)
    log(PAUSED)
    assert log.has_failures


def test_each_listener_gets_each_event() -> None:
    """An event that is no failure leaves the result as it is."""
    log = EventLog()
    first: list[Event] = []
    second: list[Event] = []
    log.add(first.append)
    log.add(second.append)
    log(PAUSED)
    assert [PAUSED] == first == second
    assert not log.has_failures
