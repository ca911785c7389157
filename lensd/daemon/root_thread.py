"""The thread of one watched folder: it checks, watches and scans the folder, and makes the jobs.

All calls to the folder's filesystem that do not belong to a job happen here, so that a filesystem
that hangs stops this thread and no other one.
"""

from __future__ import annotations

import math
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import NamedTuple

from lensd.daemon.inbox import (
    EventsLost,
    Inbox,
    Look,
    Message,
    NewFolder,
    RootChanged,
    RootRepaired,
    Wake,
)
from lensd.daemon.intake_faults import IntakeFaults
from lensd.daemon.stragglers import Stragglers
from lensd.errors import StorageError
from lensd.logs.events import DaemonError, Event
from lensd.watcher.folder import Log
from lensd.watcher.intake import Intake
from lensd.watcher.root_monitor import RootMonitor
from lensd.watcher.root_states import RootStates

LEDGER_RETRY_SECONDS = 10.0  # from a failed write of the ledger to the next scan
BUG_RETRY_SECONDS = 60.0
STRAGGLER_SECONDS = 1.0  # between two looks whether one has ended


class Watching(NamedTuple):
    """What watches folders and makes jobs of their files; one thread uses it."""

    intake: Intake
    monitor: RootMonitor


MakeWatching = Callable[[Inbox, Callable[[], None], Log], Watching]


@dataclass(frozen=True, slots=True)
class Services:
    """What the threads of all roots share.

    `repair(root)` lets the job thread continue the jobs of a root. `may_repair()`: whether each
    root was checked, so that the files that moved between them are found.
    """

    states: RootStates
    stragglers: Stragglers
    faults: IntakeFaults
    log: Log
    repair: Callable[[str], Future[int]]
    may_repair: Callable[[], bool]
    wake_jobs: Callable[[], None]
    wake_all: Callable[[], None]


class _Stopped(BaseException):
    """The thread has to end. It is no bug, so what catches each Exception lets it through."""


class RootThread(threading.Thread):
    """One watched folder. Other threads may use what has no underscore."""

    def __init__(self, root: str, make: MakeWatching, services: Services) -> None:
        super().__init__(name="root", daemon=True)
        self.root = root
        self.inbox = Inbox()
        self.error: BaseException | None = None
        self.has_checked = threading.Event()  # whether it is there
        self.has_started = threading.Event()  # scanned once, or found to be degraded
        self.is_busy = False  # it is not waiting for messages
        self.steps = 0  # grows while it makes progress
        self.events_arrive = True
        self._make = make
        self._services = services
        self._is_stopping = threading.Event()
        self._repair: Future[int] | None = None
        self._needs_repair = False
        self._rest_until = -math.inf

    def stop(self) -> None:
        """End soon; a call to the filesystem that hangs is left to itself."""
        self._is_stopping.set()
        self.inbox.put(Wake())

    def progress(self) -> None:
        """Only for this thread, during long work. Raises what ends the thread after `stop`."""
        if self._is_stopping.is_set():
            raise _Stopped
        self.steps += 1

    def run(self) -> None:
        try:
            self._wait_for_stragglers()
            self._watching = self._make(self.inbox, self.progress, self._log)
            self._watching.monitor.start()
            try:
                while True:
                    self._turn()
            finally:
                self._watching.monitor.stop()
        except _Stopped:
            pass
        except BaseException as error:  # noqa: BLE001  the main loop must end with it
            self.error = error
        finally:
            self.is_busy = False
            self._services.wake_all()

    def _log(self, event: Event) -> None:
        self.progress()
        self._services.log(event)

    def _wait_for_stragglers(self) -> None:
        while self._services.stragglers.are_in(self.root):
            if self._is_stopping.wait(STRAGGLER_SECONDS):
                raise _Stopped

    def _turn(self) -> None:
        """Wait for a message, and do what is due."""
        intake, monitor = self._watching
        due = min(monitor.next_due(), intake.next_due() or math.inf)
        seconds = max(0.0, max(due, self._rest_until) - time.monotonic())
        self.is_busy = False
        message = self.inbox.get(min(seconds, BUG_RETRY_SECONDS))
        self.is_busy = True
        self.progress()
        now = time.monotonic()
        try:
            self._follow(message, now)
            if now >= self._rest_until:
                self._work(now)
        except StorageError as error:
            # The next scan finds again what the ledger could not record.
            self._rest_until = now + LEDGER_RETRY_SECONDS
            monitor.scan_all_after(self._rest_until)
            self._services.faults.report(self.root, error)
        except Exception:  # noqa: BLE001  a bug costs this root a pause, and the others nothing
            self._rest_until = now + BUG_RETRY_SECONDS
            monitor.scan_all_after(self._rest_until)
            self._report_bug()
        else:
            if now >= self._rest_until:
                self._services.faults.report(self.root, None)
        self.events_arrive = monitor.alive

    def _follow(self, message: Message | None, now: float) -> None:
        intake, monitor = self._watching
        match message:
            case Look(path):
                intake.notice(path, now)
            case NewFolder(root):
                monitor.note_new_folder(root, now)
            case EventsLost(root):
                monitor.note_lost_events(root)
            case RootChanged():
                monitor.check_soon()
            case RootRepaired(root, is_complete):
                self._take_back(is_complete=is_complete)

    def _work(self, now: float) -> None:
        """Check and scan the folder, as far as that is due, and look at its new files."""
        intake, monitor = self._watching
        self._needs_repair = bool(monitor.check_due(now)) or (
            self._needs_repair and self.root in self._services.states.shut
        )
        if not self.has_checked.is_set():
            self.has_checked.set()
            self._services.wake_all()
        if self._needs_repair and self._repair is None and self._services.may_repair():
            self._needs_repair = False
            self._repair = self._services.repair(self.root)
        monitor.scan_due(now)
        if not self.has_started.is_set() and (
            monitor.degraded or self.root not in self._services.states.shut
        ):
            self.has_started.set()
            self._services.wake_all()
        if intake.step(now):
            self._services.wake_jobs()

    def _take_back(self, *, is_complete: bool) -> None:
        """After its repair: open the root to jobs, or leave that to the next check.

        Raises what ended the repair, if that was a bug.
        """
        repair, self._repair = self._repair, None
        if repair is None:
            return
        repair.result()
        if is_complete and self._watching.monitor.readmit(self.root):
            self._services.wake_jobs()

    def _report_bug(self) -> None:
        self._log(
            DaemonError(
                request=None,
                message=f"a bug in lensd ended a scan of {self.root}. lensd scans the folder again "
                f"in {BUG_RETRY_SECONDS:g} s. Please report the bug with the traceback",
                exception=traceback.format_exc(),
            )
        )
