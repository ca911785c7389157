"""watchdog's events of one watched folder and the folders below it, from inotify."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import suppress

from watchdog.events import (
    DirCreatedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileModifiedEvent,
    FileSystemEvent,
)
from watchdog.observers.api import DEFAULT_EMITTER_TIMEOUT, EventEmitter, EventQueue, ObservedWatch

from lensd.watcher.inotify import (
    IN_CLOSE_WRITE,
    IN_CREATE,
    IN_DELETE,
    IN_IGNORED,
    IN_ISDIR,
    IN_MODIFY,
    IN_MOVED_FROM,
    IN_MOVED_TO,
    IN_Q_OVERFLOW,
    IN_UNMOUNT,
    Event,
    Inotify,
)

_COMES = IN_CREATE | IN_MOVED_TO
_GOES = IN_DELETE | IN_MOVED_FROM
_FILE_EVENTS: tuple[tuple[int, type[FileSystemEvent]], ...] = (
    (_COMES, FileCreatedEvent),
    (_GOES, FileDeletedEvent),
    (IN_MODIFY, FileModifiedEvent),
    (IN_CLOSE_WRITE, FileClosedEvent),
)


class EventsLostEvent(FileSystemEvent):
    """The kernel dropped events, or removed watches with an unmounted disk."""

    event_type = "lost"


class FolderEmitter(EventEmitter):
    """One inotify descriptor and one thread for a root. `start` raises OSError.

    Every folder below the root is watched as far as the kernel permits; an audit of `descriptor`
    finds those that are not. A thread that dies closes the descriptor.
    """

    def __init__(
        self,
        event_queue: EventQueue,
        watch: ObservedWatch,
        *,
        timeout: float = DEFAULT_EMITTER_TIMEOUT,
        event_filter: list[type[FileSystemEvent]] | None = None,
    ) -> None:
        super().__init__(event_queue, watch, timeout=timeout, event_filter=event_filter)
        self.name = "inotify"
        self._root = os.fsdecode(watch.path)
        self._folders: dict[int, str] = {}  # paths by watch; only this thread uses it once it runs
        self._lock = threading.Lock()
        self._is_open = False
        self._inotify: Inotify

    @property
    def descriptor(self) -> int:
        """The descriptor whose watches can be audited while the thread lives."""
        return self._inotify.descriptor

    def on_thread_start(self) -> None:
        """Watch the root, and the folders that are below it now. Raises OSError for the root."""
        self._inotify = Inotify()
        self._is_open = True
        try:
            self._add(self._root)
            if self.watch.is_recursive:
                for _ in self._add_below(self._root):
                    pass
        except BaseException:
            self._close()
            raise

    def on_thread_stop(self) -> None:
        with self._lock:
            if self._is_open:
                self._inotify.wake()

    def run(self) -> None:
        try:
            super().run()
        finally:
            self._close()

    def queue_events(self, timeout: float) -> None:  # noqa: ARG002  `wake` ends the wait
        """Wait for events of the kernel and pass them on."""
        for event in self._inotify.read():
            self._pass_on(event)

    def _pass_on(self, event: Event) -> None:
        if event.mask & (IN_Q_OVERFLOW | IN_UNMOUNT):
            if event.mask & IN_Q_OVERFLOW:
                logging.getLogger(__name__).warning(
                    "the inotify queue of %r overflowed; lensd scans the folder", self._root
                )
            self.queue_event(EventsLostEvent(self._root))
        folder = self._folders.get(event.watch)
        if event.mask & IN_IGNORED:  # the folder is gone, or `remove` was called
            self._folders.pop(event.watch, None)
        elif folder is not None and event.name:
            path = os.path.join(folder, event.name)
            if event.mask & IN_ISDIR:
                self._pass_on_folder(path, event.mask)
            else:
                self._pass_on_file(path, event.mask)

    def _pass_on_file(self, path: str, mask: int) -> None:
        for bits, kind in _FILE_EVENTS:
            if mask & bits:
                self.queue_event(kind(path))

    def _pass_on_folder(self, path: str, mask: int) -> None:
        if not self.watch.is_recursive:
            return
        if mask & IN_MOVED_FROM:  # with a deleted folder the kernel removes its watch
            self._remove(path)
        elif mask & _COMES:
            self.queue_event(DirCreatedEvent(path))
            with suppress(OSError):  # gone again, or refused, which an audit shows
                self._add(path)
            for file in self._add_below(path):  # they may be older than the watch
                self.queue_event(FileCreatedEvent(file))

    def _add(self, folder: str) -> None:
        self._folders[self._inotify.add(folder)] = folder

    def _add_below(self, top: str) -> Iterator[str]:
        """Watch each folder below a folder, before its listing; yields the files that are there."""
        pending = [top]
        while pending:
            try:
                with os.scandir(pending.pop()) as entries:
                    found = [(entry.path, entry.is_dir(follow_symlinks=False)) for entry in entries]
            except OSError:
                continue
            for path, is_folder in found:
                if not is_folder:
                    yield path
                    continue
                with suppress(OSError):
                    self._add(path)
                pending.append(path)

    def _remove(self, folder: str) -> None:
        """End the watches of a folder that was moved: they would report its old path."""
        below = folder + "/"
        gone = [w for w, path in self._folders.items() if path == folder or path.startswith(below)]
        for watch in gone:
            del self._folders[watch]
            self._inotify.remove(watch)

    def _close(self) -> None:
        with self._lock:
            if self._is_open:
                self._is_open = False
                self._inotify.close()
