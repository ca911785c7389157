"""Events of all threads."""

from __future__ import annotations

import threading

from lensd.daemon.event_log import EventLog
from lensd.errors import Reason
from lensd.logs import log
from lensd.logs.events import Event, FileDetected, FileFailed
from lensd.logs.sinks import NullSink

DETECTED = FileDetected(path="/a", watch="w", job_id=None, bytes=1)
FAILED = FileFailed(path="/b", watch="w", job_id="b", reason=Reason.IO_ERROR, message="x")


def test_a_failure_is_not_forgotten() -> None:
    """One thread reports a failure while another one reports a success: `once` ends with 1."""
    log.configure(None, stdout=NullSink())
    events = EventLog()
    seen: list[Event] = []

    def fail_meanwhile(event: Event) -> None:
        seen.append(event)
        if event == DETECTED:
            thread = threading.Thread(target=events, args=(FAILED,))
            thread.start()
            thread.join()

    events.add(fail_meanwhile)
    events(DETECTED)
    assert [DETECTED, FAILED] == seen
    assert events.has_failures
