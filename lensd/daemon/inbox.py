"""Queues into the main loop and into the thread of each root: what others ask them to do."""

from __future__ import annotations

import signal
import threading
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from lensd.store.lease import block_lease_signal
from lensd.store.paths import is_below


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
    """Look whether something has changed: a thread ended a step, or has nothing to do."""


Hint = Look | NewFolder | EventsLost | RootChanged
Message = Stop | Reload | Wake | RootRepaired | Hint


class Inbox:
    """Messages to one thread, from any thread and from signal handlers.

    A hint waits in the queue once, however often it is given; so does a reload.
    """

    def __init__(self) -> None:
        self._messages: SimpleQueue[Message] = SimpleQueue()
        self._hints: set[Hint] = set()
        self._has_reload = False  # the main thread alone uses it, and its signal handlers
        self.has_stop = False  # SIGTERM or SIGINT arrived
        # Never taken for Stop and Reload: a signal handler may interrupt the thread that has it.
        self._lock = threading.Lock()

    def put(self, message: Stop | Reload | Wake | RootRepaired) -> None:
        self._messages.put(message)

    def stop(self, number: int) -> None:
        """SIGTERM or SIGINT arrived."""
        self.has_stop = True
        self._messages.put(Stop(number))

    def reload(self) -> None:
        """SIGHUP arrived."""
        if not self._has_reload:
            self._has_reload = True
            self._messages.put(Reload())

    def wake(self) -> None:
        self._messages.put(Wake())

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
        if isinstance(message, Reload):
            self._has_reload = False  # before it is followed, as below
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


class HintRouter:
    """Passes each hint to the inbox of its root. A root may have been dropped by a reload since."""

    def __init__(self) -> None:
        self._inboxes: dict[str, Inbox] = {}

    def add(self, root: str, inbox: Inbox) -> None:
        """Before a second thread starts."""
        self._inboxes[root] = inbox

    def put(self, message: RootRepaired) -> None:
        self._inboxes[message.root].put(message)

    def look(self, path: str) -> None:
        for root, inbox in self._inboxes.items():
            if is_below(path, root):
                inbox.look(path)

    def note_new_folder(self, root: str) -> None:
        if inbox := self._inboxes.get(root):
            inbox.note_new_folder(root)

    def note_lost_events(self, root: str) -> None:
        if inbox := self._inboxes.get(root):
            inbox.note_lost_events(root)

    def note_changed_root(self, root: str) -> None:
        if inbox := self._inboxes.get(root):
            inbox.note_changed_root(root)


def listen() -> Inbox:
    """An inbox that gets SIGTERM and SIGINT. Call it before any other thread starts."""
    inbox = Inbox()
    block_lease_signal()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda n, _: inbox.stop(n))
    return inbox
