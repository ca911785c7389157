"""watchdog's observer of all roots: it turns events into hints that a path may have changed."""

from __future__ import annotations

import errno
import os
import threading

from watchdog.events import DirCreatedEvent, FileSystemEvent, FileSystemEventHandler
from watchdog.observers.api import BaseObserver, ObservedWatch

from lensd.watcher.emitter import EventsLostEvent, FolderEmitter
from lensd.watcher.hints import Hints

_JOIN_SECONDS = 5.0


class Observer:
    """Watches roots, each with an inotify descriptor and a thread of its own.

    Hints come from watchdog's thread. A thread that died is not replaced: see `alive`, and make
    another observer.
    """

    def __init__(self, hints: Hints) -> None:
        self._hints = hints
        self._observer = BaseObserver(FolderEmitter)
        self._observer.name = "events"
        self._watches: dict[str, ObservedWatch] = {}
        self._observer.start()

    @property
    def alive(self) -> bool:
        """Whether every thread that an event passes through runs."""
        threads: list[threading.Thread] = [self._observer, *self._observer.emitters]
        return all(thread.is_alive() for thread in threads)

    def descriptor(self, root: str) -> int | None:
        """The inotify descriptor of a root, None if there is none."""
        for emitter in self._observer.emitters:
            found = emitter.watch == self._watches.get(root)
            if found and isinstance(emitter, FolderEmitter) and emitter.is_alive():
                return emitter.descriptor
        return None

    def add(self, root: str, *, recursive: bool) -> None:
        """Watch a root; if it is watched, with a new descriptor. Raises OSError."""
        self.remove(root)
        if os.path.isfile(root):  # watchdog would watch the folder that the file lies in
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), root)
        handler = _Handler(root, self._hints)
        self._watches[root] = self._observer.schedule(handler, root, recursive=recursive)

    def remove(self, root: str) -> None:
        """Without effect for a root that is not watched."""
        watch = self._watches.pop(root, None)
        if watch is not None:
            self._observer.unschedule(watch)

    def stop(self) -> None:
        """End all threads; each closes its descriptor."""
        self._observer.stop()
        self._observer.join(_JOIN_SECONDS)


class _Handler(FileSystemEventHandler):
    """Turns each event of a root into a hint."""

    def __init__(self, root: str, hints: Hints) -> None:
        self._root, self._hints = root, hints

    def dispatch(self, event: FileSystemEvent) -> None:
        if isinstance(event, EventsLostEvent):
            self._hints.note_lost_events(self._root)
        elif isinstance(event, DirCreatedEvent):
            self._hints.note_new_folder(self._root)
        else:
            self._hints.look(os.fsdecode(event.src_path))
