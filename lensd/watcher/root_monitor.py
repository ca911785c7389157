"""Watches the watching: are the folders the ones they were, is each watched, was an event lost.

Events are hints. Where the kernel proves that it watches every folder a rescan comes rarely, so
that disks may sleep; elsewhere every `rescan_seconds`. Only the main loop calls this, except for
`is_degraded`; times are monotonic seconds.
"""

from __future__ import annotations

import errno
import json
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from lensd.errors import DegradedReason, LockedError, StorageError
from lensd.logs.events import DaemonDegraded, DaemonRecovered
from lensd.store.ledger import Ledger
from lensd.store.locks import Claims
from lensd.watcher import inotify_audit, root_identity
from lensd.watcher.folder import Folder, Log
from lensd.watcher.inotify import Watcher
from lensd.watcher.intake import Intake
from lensd.watcher.root_identity import Found, Problem

CHECK_SECONDS = 5.0
RARELY_SECONDS = 6 * 3600.0
MORE_SECONDS = 10.0  # there is more than the intake takes up at once
NEW_FOLDER_SECONDS = 2.0  # a tree that is being copied in is looked at when most of it is there
META = "degraded"  # under this key the ledger has, for `status`, what `Guard.report` gives


class Watched(Folder, Protocol):
    """A watched folder with its `path` as people write it."""

    @property
    def path(self) -> str: ...


@dataclass(slots=True)
class _Root:
    folder: Watched
    seen: Found | None = None
    problem: Problem | None = None  # with the folder itself
    uncovered: Problem | None = None  # with its watches
    since: float = 0.0
    is_refused: bool = False  # the kernel gave not even the folder itself a watch
    scan_at: float = -math.inf
    audit_at: float = math.inf


class RootMonitor:
    """`returned(folder)` is called when a folder is back; False: not yet, ask again.

    After that `released()`: jobs that had to wait may go on.
    """

    def __init__(
        self,
        folders: Sequence[Watched],
        intake: Intake,
        ledger: Ledger,
        claims: Claims,
        *,
        rescan_seconds: float,
        hint: Callable[[str], None],
        returned: Callable[[Any], bool],
        released: Callable[[], None],
        log: Log,
    ) -> None:
        self._roots = {f.root: _Root(f) for f in folders}
        self._intake, self._ledger, self._claims = intake, ledger, claims
        self._rescan_seconds = rescan_seconds
        self._hint, self._returned, self._released, self._log = hint, returned, released, log
        self._watcher: Watcher | None = None
        self._excluded: frozenset[str] = frozenset()
        self._check_at = -math.inf
        self._lost = threading.Event()
        self._new_folders: SimpleQueue[str] = SimpleQueue()

    def open(self) -> None:
        """Find out which folders are the ones they were."""
        for root in self._roots.values():
            problem = self._identify(root)
            if problem is not None:
                self._degrade(root, problem)
        self._publish()

    def start(self) -> None:
        """`open`, and watch: before the first scan, so that nothing falls between them."""
        self.open()
        self._watch_anew()

    def tick(self, now: float) -> None:
        """Whatever is due."""
        if self._lost.is_set():
            self._lost.clear()
            self._check_at = -math.inf
            self._watch_all()
            self.look_again()
        self._note_new_folders(now)
        if now >= self._check_at:
            self._check(now)
            self._check_at = now + min(CHECK_SECONDS, self._rescan_seconds)
        for root in self._healthy():
            if now >= root.scan_at:
                self._look_through(root, now)
            elif now >= root.audit_at:
                self._audit_after_new_folder(root, now)

    def next_due(self) -> float:
        """When `tick` has something to do."""
        times = (min(root.scan_at, root.audit_at) for root in self._healthy())
        return min(self._check_at, *times, math.inf)

    def look_again(self, at: float = -math.inf) -> None:
        """Look through every folder with the next tick after `at`."""
        for root in self._roots.values():
            root.scan_at = at

    def stop(self) -> None:
        """No thread and no descriptor is left."""
        if self._watcher is not None:
            self._watcher.stop()
            self._watcher = None
        with suppress(StorageError):  # its disk is full: whoever reads it sees that nobody runs
            self._ledger.set_meta(META, None)

    @property
    def alive(self) -> bool:
        """Whether events arrive; also true where the kernel gives no means, and folders are polled.

        False lasts for one check: then everything is made anew.
        """
        return self._watcher is None or self._watcher.alive

    @property
    def degraded(self) -> Mapping[str, Problem]:
        """Roots and what is wrong with them."""
        problems = ((r, root.problem or root.uncovered) for r, root in self._roots.items())
        return {r: problem for r, problem in problems if problem is not None}

    @property
    def excluded(self) -> frozenset[str]:
        """Roots whose jobs have to wait, as of the last check or doubt. From any thread."""
        return self._excluded

    def is_degraded(self, root: str) -> bool:
        """Whether jobs of a root must wait, as of this moment. From any thread."""
        mine = self._roots.get(root)
        if mine is None:
            return False
        if mine.problem is not None or mine.seen is None:
            return True
        if _is_same(root, mine.seen):
            return False
        self._excluded |= {root}
        self._lost.set()  # the main loop finds out what it is
        return True

    # identity

    def _check(self, now: float) -> None:
        before = self.degraded
        for root in self._roots.values():
            was = root.seen
            problem = self._identify(root)
            if problem is not None:
                self._degrade(root, problem)
            elif root.problem is not None:
                self._recover(root, root.problem)
            elif root.seen is not None and root.seen != was:  # exchanged between two checks
                self._watch(root)
                root.scan_at = now
        self._exclude()
        if not self.alive:
            self._watch_anew()
            self.look_again()
        if before != self.degraded:
            self._publish()

    def _identify(self, root: _Root) -> Problem | None:
        """What is wrong with a folder now; remembers what a sound one is."""
        path = root.folder.root
        try:
            found = root_identity.probe(path)
            known = self._ledger.root_identity(path)
            problem = root_identity.decide(known, found.identity, lambda: self._is_familiar(path))
            if problem is None:
                self._claims.claim(path)
        except LockedError as error:
            return Problem(DegradedReason.IN_USE, str(error))
        except OSError as error:
            return root_identity.unreachable(error)
        if problem is None:
            root.seen = found
            if known != found.identity:
                self._ledger.set_root_identity(path, *found.identity)
        return problem

    def _is_familiar(self, root: str) -> bool:
        """Whether at least half of the files that the ledger saw last lie there, unchanged."""
        files = self._ledger.newest(root, 32)
        there = sum(_lies_there(e.full_path, e.staged or e.identity) for e in files)
        return 0 < len(files) <= 2 * there

    def _degrade(self, root: _Root, problem: Problem) -> None:
        known, root.problem = root.problem, problem
        root.uncovered = None
        if known is not None and known.reason == problem.reason:
            return
        root.since = time.time()
        self._exclude()
        if self._watcher is not None:
            self._watcher.remove(root.folder.root)
        self._log_degraded(root, problem)

    def _recover(self, root: _Root, problem: Problem) -> None:
        try:
            if not self._returned(root.folder):
                return
        except OSError:  # gone again
            return
        self._identify(root)  # to remember one that was never seen before
        root.problem = None
        self._watch(root)
        self._exclude()
        root.scan_at = -math.inf
        message = "the folder is there again; all of it is looked through"
        self._log_recovered(root, problem, message)

    def _exclude(self) -> None:
        before = self._excluded
        self._excluded = frozenset(r for r, root in self._roots.items() if root.problem is not None)
        self._intake.exclude(self._excluded)
        if before - self._excluded:
            self._released()

    # coverage

    def _watch_anew(self) -> None:
        """A new descriptor and new threads."""
        if self._watcher is not None:
            self._watcher.stop()
        try:
            self._watcher = Watcher(self._hint, self._new_folders.put, self._lost.set)
        except OSError:  # no instance: `_cover` reports it, and tries again
            self._watcher = None
        self._watch_all()

    def _watch_all(self) -> None:
        for root in self._healthy():
            self._watch(root)

    def _watch(self, root: _Root) -> None:
        root.is_refused = False
        if self._watcher is None:
            return
        try:
            self._watcher.add(root.folder.root, recursive=root.folder.recursive)
        except OSError as error:  # else it is gone: the next check tells
            root.is_refused = error.errno == errno.ENOSPC

    def _look_through(self, root: _Root, now: float) -> None:
        """Make sure that it is watched, then scan it: in this order nothing falls between."""
        try:
            is_proven = self._cover(root)
            is_all = self._intake.scan(root.folder, now)
        except OSError as error:
            self._degrade(root, root_identity.unreachable(error))
            self._publish()
            return
        root.audit_at = math.inf
        is_local = root.seen is not None and not root.seen.is_remote
        rarely = max(RARELY_SECONDS, 12 * self._rescan_seconds)
        next_look = rarely if is_proven and is_local else self._rescan_seconds
        root.scan_at = now + (next_look if is_all else min(MORE_SECONDS, next_look))

    def _audit_after_new_folder(self, root: _Root, now: float) -> None:
        root.audit_at = math.inf
        try:
            missing = self._audit(root).missing
        except OSError:
            self._check_at = -math.inf
            return
        if missing and root.uncovered is None:
            self._look_through(root, now)

    def _cover(self, root: _Root) -> bool:
        """Whether each folder of the root is proven to be watched, if need be after a new try."""
        if self._watcher is None:
            self._watch_anew()
        found = self._audit(root)
        if found.missing or root.is_refused:
            self._watch(root)
            found = self._audit(root)
        self._report_coverage(root, self._lack(root, found))
        return found.missing == [] and not root.is_refused

    def _audit(self, root: _Root) -> inotify_audit.Coverage:
        if self._watcher is None:
            return inotify_audit.Coverage(0, None)
        nodes = inotify_audit.watched(self._watcher.inotify)
        device = root.seen.device if root.seen is not None else None
        return inotify_audit.audit(root.folder.root, device, nodes, recursive=root.folder.recursive)

    def _lack(self, root: _Root, found: inotify_audit.Coverage) -> Problem | None:
        if self._watcher is None:
            return inotify_audit.instances_reached()
        missing = [""] if root.is_refused else found.missing
        if not missing:
            return None
        lack = found.folders if root.is_refused else len(missing)
        example = os.path.join(root.folder.root, missing[0])
        return inotify_audit.limit_reached(lack, found.folders, example.rstrip("/"))

    def _report_coverage(self, root: _Root, lack: Problem | None) -> None:
        before, root.uncovered = root.uncovered, lack
        if before is None and lack is not None:
            root.since = time.time()
            self._log_degraded(root, lack)
        elif before is not None and lack is None:
            message = "every folder is watched again"
            self._log_recovered(root, before, message)
        if before != lack:
            self._publish()

    def _note_new_folders(self, now: float) -> None:
        while True:
            try:
                root = self._roots[self._new_folders.get_nowait()]
            except Empty:
                return
            root.audit_at = min(root.audit_at, now + NEW_FOLDER_SECONDS)

    # telling

    def _healthy(self) -> Iterator[_Root]:
        return (root for root in self._roots.values() if root.problem is None)

    def _log_degraded(self, root: _Root, problem: Problem) -> None:
        watch, path = root.folder.name, root.folder.path
        self._log(
            DaemonDegraded(watch=watch, path=path, reason=problem.reason, message=problem.message)
        )

    def _log_recovered(self, root: _Root, problem: Problem, message: str) -> None:
        watch, path = root.folder.name, root.folder.path
        self._log(DaemonRecovered(watch=watch, path=path, reason=problem.reason, message=message))

    def _publish(self) -> None:
        """For `status`, which is another process."""
        lines = [
            {
                "watch": self._roots[r].folder.name,
                "path": self._roots[r].folder.path,
                "reason": problem.reason,
                "message": problem.message,
                "since": self._roots[r].since,
            }
            for r, problem in self.degraded.items()
        ]
        self._ledger.set_meta(META, json.dumps(lines) if lines else None)


def _is_same(path: str, seen: Found) -> bool:
    try:
        return root_identity.probe(path).identity == seen.identity
    except OSError:
        return False


def _lies_there(path: str, known: Any) -> bool:
    try:
        found = os.lstat(path)
    except OSError:
        return False
    return (found.st_size, found.st_mtime_ns) == (known.size, known.mtime_ns)
