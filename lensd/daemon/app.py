"""All parts of a working lensd for one configuration, put together; `daemon` and `once` use them.

Three threads: watchdog's, which only pass on paths; the runner's, which changes files; and the main
one, which owns the intake. They meet in one inbox and in the ledger.
"""

from __future__ import annotations

import datetime as dt
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from lensd import __version__
from lensd.config.model import Config, Watch
from lensd.config.schedule import opens_in
from lensd.daemon.job_thread import JobThread
from lensd.daemon.systemd_notify import Pulse
from lensd.errors import DiskUnavailable
from lensd.jobs import rebuild, recover
from lensd.jobs.context import JobContext
from lensd.jobs.prune import DailyPass, Pruner
from lensd.logs import log
from lensd.logs.events import DaemonBaseline, DaemonStarted, Event, Failure
from lensd.logs.sinks import Sink
from lensd.store.archive import Archive
from lensd.store.lease import block_lease_signal
from lensd.store.ledger import Ledger
from lensd.store.locks import Claims, StateLock
from lensd.watcher.intake import Intake, linked
from lensd.watcher.root_monitor import RootMonitor
from lensd.watcher.settle import Settler
from lensd.worker.supervisor import Worker

if TYPE_CHECKING:
    from lensd.metrics.exporter import Exporter

STOP_SECONDS = 8.0
PATIENCE_SECONDS = 1.0


class ProgressObserver:
    """Learns how far the work is, from any thread. This one makes nothing of it."""

    stdout: Sink | None = None  # takes the log's lines where stdout would

    def begin(self, sizes: Mapping[str, int]) -> None:
        """The files that are to be treated, with their bytes."""

    def step(self, path: str, stage: str, done: int, of: int) -> None:
        """So many of a stage's modules are done."""

    def logged(self, event: Event) -> None:
        """The log has a new line; with a JobEnd a file is finished."""


@dataclass(frozen=True, slots=True)
class Stop:
    """A signal arrived."""

    number: int


@dataclass(frozen=True, slots=True)
class Reload:
    """SIGHUP: read the configuration again."""


@dataclass(frozen=True, slots=True)
class Look:
    """A path may have changed."""

    path: str


@dataclass(frozen=True, slots=True)
class Wake:
    """The runner finished something."""


Message = Stop | Reload | Look | Wake


class Inbox:
    """Messages to the main loop, from any thread and from handlers of signals.

    A path that is to be looked at is in it once, however many events there are.
    """

    def __init__(self) -> None:
        self._messages: SimpleQueue[Message] = SimpleQueue()
        self._looks: set[Look] = set()

    def put(self, message: Message) -> None:
        if isinstance(message, Look):
            if message in self._looks:
                return
            self._looks.add(message)
        self._messages.put(message)

    def get(self, seconds: float) -> Message | None:
        """The oldest message, None when none comes in time."""
        try:
            message = self._messages.get(timeout=seconds)
        except Empty:
            return None
        if isinstance(message, Look):
            self._looks.discard(message)  # before anybody looks: what happens then counts anew
        return message

    def empty(self) -> bool:
        return self._messages.empty()


def listen() -> Inbox:
    """Turn signals into messages, before there is any other thread."""
    inbox = Inbox()
    block_lease_signal()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda n, _: inbox.put(Stop(n)))
    return inbox


@contextmanager
def locked_ledger(config: Config, stdout: Sink | None = None) -> Iterator[Ledger]:
    """The ledger, for the one lensd that has its state folder and the watched folders.

    The log goes where the configuration says. Raises LockedError, StorageError.
    """
    log.configure(config.log.path, config.log.level, config.log.mode_bits, stdout)
    with StateLock(config.state.path):
        os.makedirs(config.archive.path, mode=0o750, exist_ok=True)
        ledger = Ledger(config.state.path, __version__)
        try:
            require_unclaimed(config)
            log.emit(DaemonStarted(version=__version__, pid=os.getpid(), config=config.source))
            yield ledger
        finally:
            ledger.close()


def require_unclaimed(config: Config) -> None:
    """Raises LockedError when another lensd watches one of the folders."""
    with Claims() as claims:
        for watch in config.watch:
            with suppress(OSError):  # it is not there: claimed when it is
                claims.claim(watch.root)


class App:
    """The parts, and what both ways of using them need."""

    def __init__(
        self,
        config: Config,
        ledger: Ledger,
        inbox: Inbox,
        *,
        patient: bool,
        observer: ProgressObserver | None = None,
    ) -> None:
        self.config = config
        self.ledger = ledger
        self.has_failed = False
        self._inbox = inbox
        self._observer = observer
        self.archive = Archive(os.path.realpath(config.archive.path))
        settler = Settler.new(config.settle.quiet_seconds, config.settle.unproven_seconds)
        self.pulse = Pulse()
        self.intake = Intake(
            config.watch, settler, ledger, self.archive, self.emit, self.pulse.progress
        )
        self._claims = Claims()
        self.root_monitor = RootMonitor(
            config.watch,
            self.intake,
            ledger,
            self._claims,
            rescan_seconds=config.settle.rescan_seconds,
            hint=lambda path: inbox.put(Look(path)),
            returned=self._return,
            released=self._go_on,
            log=self.emit,
        )
        self._exporter = self._metrics()
        self.context = self._job_context(patient=patient)
        self.job_thread = JobThread(
            self.context,
            {w.root: w.settings for w in config.watch},
            self.intake.waited,
            lambda: inbox.put(Wake()),
            lambda: opens_in(config.worker.hours, dt.datetime.now().astimezone()),
            self._daily_pass(),
        )

    def _job_context(self, *, patient: bool) -> JobContext:
        worker = self.config.worker
        return JobContext(
            ledger=self.ledger,
            archive=self.archive,
            worker=Worker(
                command=(sys.executable, "-m", "lensd.engine"),
                log=self.emit,
                timeout=worker.timeout,
                idle_exit=worker.idle_exit,
                nice=worker.nice,
                memory_limit=worker.memory_limit,
                progress=self._step if self._observer else None,
            ),
            log=self.emit,
            device=worker.device,
            quiet_seconds=self.config.settle.quiet_seconds,
            again=lambda entry: self._inbox.put(Look(entry.full_path)),
            patient=patient,
            away=lambda: self.root_monitor.excluded,
            is_away=self.root_monitor.is_degraded,
            moved=self.intake.move_tracker.search,
        )

    def _daily_pass(self) -> DailyPass | None:
        days = self.config.archive.keep_days
        return (
            None if days is None else DailyPass(Pruner(self.ledger, self.archive, self.emit, days))
        )

    def _metrics(self) -> Exporter | None:
        path = self.config.metrics.textfile
        if path is None:
            return None
        from lensd.metrics.exporter import Exporter  # only for who wants it

        names = {w.root: w.name for w in self.config.watch}
        return Exporter(
            path,
            __version__,
            self.ledger,
            tuple(names.values()),
            lambda: {names[root] for root in self.root_monitor.degraded},
            self.emit,
        )

    def emit(self, event: Event) -> None:
        """Write an event to the log; remember whether a file has failed."""
        self.has_failed = self.has_failed or isinstance(event, Failure)
        if self._exporter is not None:
            self._exporter.note(event)
        log.emit(event)
        if self._observer is not None:
            self._observer.logged(event)

    def _step(self, job_id: str, stage: str, done: int, of: int) -> None:
        if self._observer is not None:
            self._observer.step(self.ledger.get(job_id).full_path, stage, done, of)

    def prepare(self) -> None:
        """Finish what a crash left, and get to know the folders."""
        self.intake.move_tracker.finish()
        fault = recover.recover(self.context)
        if fault is not None and self.context.patient:
            self.job_thread.back_off(
                DiskUnavailable(fault.reason, fault.disk or self.archive.root, str(fault))
            )
        self.ledger.release(self.ledger.quarantined_before(__version__))
        for watch in self.healthy():
            self._open(watch)
        if self._exporter is not None:
            self._exporter.start()

    def healthy(self) -> tuple[Watch, ...]:
        """The watched folders that can be worked in."""
        return tuple(w for w in self.config.watch if w.root not in self.root_monitor.excluded)

    def next(self, due: float) -> Message | None:
        """The next message, or None when `due` (monotonic seconds) has come, or soon."""
        # Python runs a signal's handler in this thread, and one that comes just before the wait
        # begins does not interrupt it: so no wait is long.
        patience = min(PATIENCE_SECONDS, max(0.0, due - time.monotonic()))
        return self._inbox.get(patience)

    def look(self, paths: Iterable[str]) -> None:
        """Have paths looked at anew. From any thread."""
        for path in paths:
            self._inbox.put(Look(path))
        self.job_thread.wake()

    def is_worked_off(self) -> bool:
        """Whether no job is left, and nothing wants to be looked at."""
        # In this order: the runner takes a job only when it is not idle, and when it is idle
        # again, what it wants to be looked at anew is in the inbox.
        if self.job_thread.next_job() is not None:
            return False
        return self.job_thread.idle.is_set() and self._inbox.empty()

    def close(self) -> None:
        """End all threads; a job under way begins again with the next start."""
        if self.job_thread.is_alive():
            self.job_thread.finish(STOP_SECONDS)
        self.root_monitor.stop()
        if self._exporter is not None:
            self._exporter.finish(STOP_SECONDS)
        self._claims.close()

    def _go_on(self) -> None:
        self.job_thread.wake()

    def _open(self, watch: Watch) -> None:
        """What a folder needs before its first scan."""
        rebuild.rebuild(watch, self.ledger, self.archive, self.emit, self.pulse.progress)
        recover.rescue_strays(
            watch.root, watch.name, recursive=watch.recursive, context=self.context
        )
        baseline = self.intake.baseline(watch)
        if baseline is not None:
            files, size = baseline
            log.emit(
                DaemonBaseline(
                    watch=watch.name,
                    path=watch.path,
                    files=files,
                    bytes=size,
                    symlinked_folders=linked(watch) if watch.recursive else [],
                )
            )

    def _return(self, watch: Watch) -> bool:
        """A folder is back, and its jobs have waited; False while one is still failing."""
        if self.job_thread.is_busy_in(watch.root):
            return False
        recover.continue_jobs(self.context, lambda root: root == watch.root)
        self._open(watch)
        return True
