"""Checks that each watched folder is still the folder that it was, and scans it when that is due.

Events are hints. Where the kernel proves that it watches every folder of a root, a rescan comes
rarely, so that disks may sleep; elsewhere every `rescan_seconds`. One thread uses this; times are
monotonic seconds.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from lensd.logs.events import DaemonDegraded, DaemonRecovered
from lensd.store.ledger import Ledger
from lensd.store.ledger.notes import DegradedRoot
from lensd.store.locks import Claims
from lensd.watcher import root_identity
from lensd.watcher.coverage import Watches
from lensd.watcher.degraded_roots import DegradedRoots
from lensd.watcher.folder import Folder, Log
from lensd.watcher.intake import Intake
from lensd.watcher.root_check import check_root
from lensd.watcher.root_identity import Found, Problem
from lensd.watcher.root_states import RootStates

CHECK_SECONDS = 5.0
RARELY_SECONDS = 6 * 3600.0
MORE_SECONDS = 10.0  # to the rest of a scan that found more than the intake takes at once
NEW_FOLDER_SECONDS = 2.0  # a tree that is being copied in is audited when most of it is there


class Watched(Folder, Protocol):
    """A watched folder with its `path` as the configuration has it."""

    @property
    def path(self) -> str: ...


@dataclass(slots=True)
class _Root:
    folder: Watched
    seen: Found | None = None
    problem: Problem | None = None  # with the folder itself
    uncovered: Problem | None = None  # with its watches
    since: float = 0.0  # wall time
    scan_at: float = -math.inf
    audit_at: float = math.inf


class RootMonitor:
    """Finds degraded roots, closes them to jobs, and watches and scans the others."""

    def __init__(
        self,
        folders: Sequence[Watched],
        intake: Intake,
        ledger: Ledger,
        claims: Claims,
        states: RootStates,
        degraded: DegradedRoots,
        watches: Watches,
        *,
        rescan_seconds: float,
        log: Log,
    ) -> None:
        self._roots = {f.root: _Root(f) for f in folders}
        self._intake, self._ledger, self._claims = intake, ledger, claims
        self._states, self._degraded_roots, self._watches = states, degraded, watches
        self._rescan_seconds = rescan_seconds
        self._log = log
        self._check_at = -math.inf

    def check_all(self) -> None:
        """The first check, for a caller that watches nothing."""
        for root in self._roots.values():
            problem = self._identify(root)
            if problem is not None:
                self._degrade(root, problem)
            elif root.seen is not None:
                self._states.open(root.folder.root, root.seen.identity)
        self._intake.exclude(self._states.shut)
        self._publish()

    def start(self) -> None:
        """Let `readmit` watch the roots: `check_due` returns each sound one, which is closed."""
        self._watches.start(())

    def stop(self) -> None:
        """End all watches."""
        self._watches.stop()

    # what other threads noticed; a root may have been dropped by a reload since

    def note_new_folder(self, root: str, now: float) -> None:
        """A folder below the root is new: audit its watches soon."""
        if found := self._roots.get(root):
            found.audit_at = min(found.audit_at, now + NEW_FOLDER_SECONDS)

    def note_lost_events(self, root: str) -> None:
        """Replace the watches of the root and scan it; it may have been unmounted."""
        self.check_soon()
        found = self._roots.get(root)
        if found is not None and found.problem is None:
            self._watches.watch(found.folder)
            found.scan_at = -math.inf

    def check_soon(self) -> None:
        """Check the roots at the next `check_due`."""
        self._check_at = -math.inf

    def scan_all_after(self, at: float = -math.inf) -> None:
        """Scan every root as soon as `at` has passed."""
        for root in self._roots.values():
            root.scan_at = at

    # what the root's thread does

    def next_due(self) -> float:
        """When `check_due` or `scan_due` has something to do."""
        times = (min(root.scan_at, root.audit_at) for root in self._healthy())
        return min(self._check_at, *times, math.inf)

    def check_due(self, now: float) -> list[str]:
        """Check the roots, if that is due. Returns those that are back: `readmit` them."""
        if now < self._check_at:
            return []
        self._check_at = now + min(CHECK_SECONDS, self._rescan_seconds)
        back = []
        for root in self._roots.values():
            was = root.seen
            problem = self._identify(root)
            if problem is not None:
                self._degrade(root, problem)
            elif root.folder.root in self._states.shut:
                back.append(root.folder.root)
            elif root.seen is not None and root.seen != was:  # exchanged between two checks
                self._states.open(root.folder.root, root.seen.identity)
                self._watches.watch(root.folder)
                root.scan_at = now
        self._intake.exclude(self._states.shut)
        if not self._watches.alive:
            self._watches.start(root.folder for root in self._healthy())
            self.scan_all_after()
        self._publish()
        return back

    def readmit(self, path: str) -> bool:
        """Let jobs begin in a root again, and scan all of it. False: it is gone again."""
        root = self._roots[path]
        problem = self._identify(root)  # also to remember a root that the ledger knows only now
        if problem is not None or root.seen is None:
            return False
        known, root.problem = root.problem, None
        self._watches.watch(root.folder)
        self._states.open(path, root.seen.identity)
        self._intake.exclude(self._states.shut)
        root.scan_at = -math.inf
        if known is not None:
            message = "the folder is there again; lensd scans all of it"
            self._log_recovered(root, known, message)
            self._publish()
        return True

    def scan_due(self, now: float) -> None:
        """Scan and audit the roots for which that is due."""
        for root in list(self._healthy()):
            if now >= root.scan_at:
                self._scan(root, now)
            elif now >= root.audit_at:
                self._audit_new_folders(root, now)

    @property
    def alive(self) -> bool:
        """Whether events arrive. False lasts until the next check, which replaces all watches."""
        return self._watches.alive

    @property
    def degraded(self) -> Mapping[str, Problem]:
        """Roots and what is wrong with them."""
        problems = ((r, root.problem or root.uncovered) for r, root in self._roots.items())
        return {r: problem for r, problem in problems if problem is not None}

    def _healthy(self) -> Iterator[_Root]:
        closed = self._states.shut
        return (root for r, root in self._roots.items() if r not in closed)

    def _identify(self, root: _Root) -> Problem | None:
        """What is wrong with a folder now; remembers what a sound one is."""
        found = check_root(root.folder.root, self._ledger, self._claims)
        if isinstance(found, Problem):
            return found
        root.seen = found
        return None

    def _degrade(self, root: _Root, problem: Problem) -> None:
        known, root.problem = root.problem, problem
        root.uncovered = None
        self._states.close(root.folder.root)
        if known is not None and known.reason == problem.reason:
            return
        root.since = time.time()
        self._watches.unwatch(root.folder.root)
        self._log_degraded(root, problem)

    # scans

    def _scan(self, root: _Root, now: float) -> None:
        """Make sure that it is watched, then scan it: in this order no change is missed."""
        try:
            proof = self._watches.prove(root.folder, root.seen)
            self._report_coverage(root, proof.problem)
            is_all = self._intake.scan(root.folder, now)
        except OSError as error:
            self._degrade(root, root_identity.unreachable(error))
            self._intake.exclude(self._states.shut)
            self._publish()
            return
        root.audit_at = math.inf
        is_local = root.seen is not None and not root.seen.is_remote
        rarely = max(RARELY_SECONDS, 12 * self._rescan_seconds)
        next_scan = rarely if proof.is_complete and is_local else self._rescan_seconds
        root.scan_at = now + (next_scan if is_all else min(MORE_SECONDS, next_scan))

    def _audit_new_folders(self, root: _Root, now: float) -> None:
        root.audit_at = math.inf
        try:
            misses_some = self._watches.misses_some(root.folder, root.seen)
        except OSError:
            self.check_soon()
            return
        if misses_some and root.uncovered is None:
            self._scan(root, now)

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

    # reports

    def _log_degraded(self, root: _Root, problem: Problem) -> None:
        watch, path = root.folder.name, root.folder.path
        self._log(
            DaemonDegraded(watch=watch, path=path, reason=problem.reason, message=problem.message)
        )

    def _log_recovered(self, root: _Root, problem: Problem, message: str) -> None:
        watch, path = root.folder.name, root.folder.path
        self._log(DaemonRecovered(watch=watch, path=path, reason=problem.reason, message=message))

    def _publish(self) -> None:
        """For `lensd status`, which is another process, and for the metrics' thread.

        With each check, since the ledger may have refused the last change.
        """
        notes: dict[str, DegradedRoot | None] = dict.fromkeys(self._roots)
        for r, problem in self.degraded.items():
            root = self._roots[r]
            notes[r] = DegradedRoot(
                watch=root.folder.name,
                path=root.folder.path,
                reason=problem.reason,
                message=problem.message,
                since=root.since,
            )
        self._degraded_roots.set(notes)
