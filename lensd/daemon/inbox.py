"""The queue into the main loop: what signals and other threads ask it to do."""

from __future__ import annotations

import signal
import threading
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from lensd.store.lease import block_lease_signal


@dataclass(frozen=True, slots=True)
class Stop:
    """SIGTERM or SIGINT arrived."""

    number: int


@dataclass(frozen=True, slots=True)
class Reload:
    """SIGHUP arrived: read the configuration again."""


@dataclass(frozen=True, slots=True)
class Look:
    """A path may have changed."""

    path: str


@dataclass(frozen=True, slots=True)
class NewFolder:
    """A folder below a root is new."""

    root: str


@dataclass(frozen=True, slots=True)
class EventsLost:
    """Events of a root were lost, or its watches."""

    root: str


@dataclass(frozen=True, slots=True)
class RootChanged:
    """A job found another folder, or none, in the place of a root."""

    root: str


@dataclass(frozen=True, slots=True)
class RootRepaired:
    """The job thread has continued the jobs of a root that is back; or could not yet."""

    root: str
    is_complete: bool


@dataclass(frozen=True, slots=True)
class Wake:
    """The job thread ended a job, or has nothing to do."""


Hint = Look | NewFolder | EventsLost | RootChanged
Message = Stop | Reload | Wake | RootRepaired | Hint


class Inbox:
    """Messages to the main loop, from any thread and from signal handlers.

    A hint waits in the queue once, however often it is given.
    """

    def __init__(self) -> None:
        self._messages: SimpleQueue[Message] = SimpleQueue()
        self._hints: set[Hint] = set()
        # Never taken for Stop and Reload: a signal handler may interrupt the thread that has it.
        self._lock = threading.Lock()

    def put(self, message: Stop | Reload | Wake | RootRepaired) -> None:
        self._messages.put(message)

    def look(self, path: str) -> None:
        self._put_once(Look(path))

    def note_new_folder(self, root: str) -> None:
        self._put_once(NewFolder(root))

    def note_lost_events(self, root: str) -> None:
        self._put_once(EventsLost(root))

    def note_changed_root(self, root: str) -> None:
        self._put_once(RootChanged(root))

    def get(self, seconds: float) -> Message | None:
        """The oldest message, None when none comes in time."""
        try:
            message = self._messages.get(timeout=seconds)
        except Empty:
            return None
        if isinstance(message, Hint):
            with self._lock:  # before it is followed: a change from here on is another hint
                self._hints.discard(message)
        return message

    def empty(self) -> bool:
        return self._messages.empty()

    def _put_once(self, hint: Hint) -> None:
        with self._lock:
            if hint in self._hints:
                return
            self._hints.add(hint)
        self._messages.put(hint)


def listen() -> Inbox:
    """An inbox that gets SIGTERM and SIGINT. Call it before any other thread starts."""
    inbox = Inbox()
    block_lease_signal()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda n, _: inbox.put(Stop(n)))
    return inbox
