"""watchdog's observer -> hints that a path may have changed. The rescan is the truth."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from watchdog.events import (
    DirCreatedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileModifiedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers.api import BaseObserver, ObservedWatch
from watchdog.observers.inotify import InotifyEmitter
from watchdog.observers.inotify_c import InotifyConstants, InotifyEvent, InotifyFD

Hint = Callable[[str], None]

# Not that somebody read a file: lensd itself reads each one, and those events fill the queue.
_EVENTS: list[type[FileSystemEvent]] = [
    DirCreatedEvent, DirMovedEvent,
    FileClosedEvent, FileCreatedEvent, FileDeletedEvent, FileModifiedEvent, FileMovedEvent,
]  # fmt: skip
_JOIN_SECONDS = 5.0


class Watcher:
    """Observes folders. `hint(absolute path)` is called from watchdog's threads.

    So is `new_folder(root)` when a folder came, whose watch the kernel may have refused, and
    `lost()` when it dropped events or took watches away with a disk. A thread that died is not
    replaced: see `alive`, and make another Watcher.
    """

    def __init__(self, hint: Hint, new_folder: Hint, lost: Callable[[], None]) -> None:
        """Raises OSError when the kernel gives no inotify instance."""
        self._hint, self._new_folder = hint, new_folder
        self._inotify = _Inotify(lost)
        self._observer = BaseObserver(InotifyEmitter, inotify_fd=self._inotify)
        self._watches: dict[str, ObservedWatch] = {}
        self._inotify.start()
        self._observer.start()

    @property
    def inotify(self) -> int:
        """The descriptor whose watches are to be audited."""
        return self._inotify.number

    @property
    def alive(self) -> bool:
        """Whether every thread that an event passes through runs."""
        threads: list[threading.Thread] = [self._inotify, self._observer, *self._observer.emitters]
        return all(thread.is_alive() for thread in threads)

    def add(self, root: str, *, recursive: bool) -> None:
        """Watch a folder, anew if it was watched before. Raises OSError."""
        self.remove(root)
        handler = _Handler(self._hint, lambda: self._new_folder(root))
        self._watches[root] = self._observer.schedule(
            handler, root, recursive=recursive, event_filter=_EVENTS
        )

    def remove(self, root: str) -> None:
        watch = self._watches.pop(root, None)
        if watch is not None:
            self._observer.unschedule(watch)

    def stop(self) -> None:
        """End all threads and close the descriptor, also when they died before."""
        died = not self._inotify.is_alive()
        self._observer.stop()
        self._inotify.stop()
        if died:
            self._inotify.release()
        for thread in (self._observer, self._inotify):
            thread.join(_JOIN_SECONDS)


class _Inotify(InotifyFD):
    """An inotify descriptor and its thread, which tells when watches or events were lost."""

    def __init__(self, lost: Callable[[], None]) -> None:
        super().__init__()
        self._lost = lost

    @property
    def number(self) -> int:
        return self._inotify_fd

    def handle_event(self, event: InotifyEvent) -> None:
        super().handle_event(event)
        if event.is_queue_overflow or event.mask & InotifyConstants.IN_UNMOUNT:
            self._lost()

    def release(self) -> None:
        """Close what a thread that died while it was reading would have closed at its end."""
        if self._is_reading:
            self._close_resources()


class _Handler(FileSystemEventHandler):
    """Passes on every path of an event."""

    def __init__(self, hint: Hint, new_folder: Callable[[], None]) -> None:
        self._hint, self._new_folder = hint, new_folder

    def on_any_event(self, event: FileSystemEvent) -> None:
        if isinstance(event, DirCreatedEvent | DirMovedEvent):
            self._new_folder()  # watchdog tells of each file in it
            return
        for path in (event.src_path, event.dest_path):
            if path:
                self._hint(os.fsdecode(path))
