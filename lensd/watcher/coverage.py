"""The kernel's watches of all roots, and whether each folder has one.

The thread of a root uses this for its root.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from typing import NamedTuple

from lensd.watcher import inotify_audit
from lensd.watcher.folder import Folder
from lensd.watcher.hints import Hints
from lensd.watcher.inotify_audit import Audit
from lensd.watcher.observer import Observer
from lensd.watcher.root_identity import Found, Problem


class Proof(NamedTuple):
    """`is_complete`: the kernel shows that it watches every folder. `problem`: what it refuses."""

    is_complete: bool
    problem: Problem | None


class Watches:
    """Makes the watches, and makes them again after a fault.

    `progress` is called for each folder of an audit.
    """

    def __init__(self, hints: Hints, progress: Callable[[], None] = lambda: None) -> None:
        self._hints = hints
        self._progress = progress
        self._observer: Observer | None = None
        self._refusals: dict[str, int] = {}  # roots that got no watch at all, with the errno

    @property
    def alive(self) -> bool:
        """Whether events arrive; also true before `start` and after `stop`."""
        return self._observer is None or self._observer.alive

    def start(self, folders: Iterable[Folder]) -> None:
        """Watch the folders, with new threads and descriptors."""
        self.stop()
        self._observer = Observer(self._hints)
        for folder in folders:
            self.watch(folder)

    def watch(self, folder: Folder) -> None:
        """Watch a root and the folders below it; replaces the watches that it has.

        Where the kernel refuses that, the root is only scanned; `prove` has the problem.
        """
        self._refusals.pop(folder.root, None)
        if self._observer is None:
            return
        try:
            self._observer.add(folder.root, recursive=folder.recursive)
        except OSError as error:  # any other errno: it is gone, as the next check finds
            if error.errno in (errno.ENOSPC, errno.EMFILE, errno.ENFILE):
                self._refusals[folder.root] = error.errno

    def unwatch(self, root: str) -> None:
        """End the watches of a root."""
        if self._observer is not None:
            self._observer.remove(root)

    def stop(self) -> None:
        """No thread and no descriptor is left."""
        if self._observer is not None:
            self._observer.stop()
            self._observer = None

    def prove(self, folder: Folder, seen: Found | None) -> Proof:
        """Compare the watches with the folders that are there; watch again what lacks a watch.

        `seen`: what the last check found. Raises OSError when the root cannot be read.
        """
        audit = self._audit(folder, seen)
        if audit.missing or folder.root in self._refusals:
            self.watch(folder)
            audit = self._audit(folder, seen)
        is_complete = audit.missing == [] and folder.root not in self._refusals
        return Proof(is_complete, self._problem(folder.root, audit))

    def misses_some(self, folder: Folder, seen: Found | None) -> bool:
        """Whether a folder has no watch. Raises OSError when the root cannot be read."""
        return bool(self._audit(folder, seen).missing)

    def _audit(self, folder: Folder, seen: Found | None) -> Audit:
        descriptor = None if self._observer is None else self._observer.descriptor(folder.root)
        nodes = set() if descriptor is None else inotify_audit.watched(descriptor)
        device = None if seen is None else seen.device
        return inotify_audit.audit(
            folder.root, device, nodes, recursive=folder.recursive, progress=self._progress
        )

    def _problem(self, root: str, audit: Audit) -> Problem | None:
        refusal = self._refusals.get(root)
        if refusal == errno.ENOSPC:
            return inotify_audit.limit_reached(audit.folders, audit.folders, root)
        if refusal is not None:
            return inotify_audit.instances_reached()
        if not audit.missing:
            return None
        example = os.path.join(root, audit.missing[0])
        return inotify_audit.limit_reached(len(audit.missing), audit.folders, example)
