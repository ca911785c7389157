"""watchdog's observer -> hints that a path may have changed. The rescan is the truth."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from watchdog.events import (
    DirCreatedEvent,
    DirMovedEvent,
    FileClosedNoWriteEvent,
    FileOpenedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

Hint = Callable[[str], None]


class _Handler(FileSystemEventHandler):
    """Passes on every path of an event. An exception in here would end watchdog's thread."""

    def __init__(self, hint: Hint) -> None:
        self._hint = hint

    def on_any_event(self, event: FileSystemEvent) -> None:
        if isinstance(event, FileOpenedEvent | FileClosedNoWriteEvent):
            return  # somebody only read it
        if isinstance(event, DirCreatedEvent | DirMovedEvent):
            return  # watchdog tells of each file in it
        for path in (event.src_path, event.dest_path):
            if path:
                self._hint(os.fsdecode(path))


class Watcher:
    """Observes folders; `hint(absolute path)` is called from watchdog's threads."""

    def __init__(self, folders: Iterable[tuple[str, bool]], hint: Hint) -> None:
        self._observer: BaseObserver = Observer()
        for root, recursive in folders:
            self._observer.schedule(_Handler(hint), root, recursive=recursive)

    def start(self) -> None:
        self._observer.start()

    def stop(self) -> None:
        self._observer.stop()
        self._observer.join(timeout=5)
