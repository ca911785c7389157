"""Builds the parts of a working lensd for one configuration; `run` and `once` use them.

Each piece of state that several threads need has one owner:

state                        owner          others reach it by
---------------------------  -------------  ----------------------------------------------------
Intake, Settler, SteadyClock main           Inbox: hints
RootMonitor, Watches         main           Inbox: hints
Inbox                        main           its queue; the set of waiting hints has a lock
RootStates                   its lock       main opens and closes; jobs ask; metrics read
MoveTracker                  its lock       main and jobs: one move at a time, one crash note
DiskBackoff, Worker          jobs           main reads Worker.is_fresh and JobThread.error
RebuildLater                 jobs           its note in the ledger, which a start reads
times of first sight         jobs           the queue of Arrivals, which the intake fills
requests that change files   jobs           JobThread.submit: a queue, and a Future for the result
Ledger                       its lock       every thread: one connection to the database
Archive                      its lock       jobs put in; main renames for a moved file
Filesystems                  its lock       main proves mounts at the start, jobs later ones
JobContext.given_up          jobs           main asks which job is next
EventLog                     -              every thread; its listeners never change
Counts (metrics)             its lock       every thread counts; metrics reads
FolderEmitter                its thread     main starts and stops it; it puts events in a queue
leases                       their lock     jobs take them; the thread `lease` releases them
JobContext.stopping          -              an Event: main sets it, jobs and control read it

Threads: main (the main loop), jobs (the job thread), inotify and events (watchdog's), control (one
per request), metrics, lease.
"""

from __future__ import annotations

import datetime as dt
import math
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING

from lensd import __version__
from lensd.config.model import Config, Watch
from lensd.config.schedule import opens_in
from lensd.daemon.event_log import EventLog
from lensd.daemon.inbox import Inbox, Message, RootRepaired
from lensd.daemon.job_thread import JobThread
from lensd.daemon.progress import ProgressObserver, report_steps
from lensd.daemon.systemd_notify import Pulse
from lensd.errors import EXIT_OK, DiskUnavailable, StorageError
from lensd.jobs import rebuild, recover
from lensd.jobs.context import JobContext
from lensd.jobs.daily_prune import DailyPass, observe_clock
from lensd.jobs.prune import Pruner
from lensd.logs.events import DaemonBaseline, DaemonError
from lensd.store import own_folders
from lensd.store.archive import Archive
from lensd.store.ledger import Ledger
from lensd.store.locks import Claims
from lensd.store.walk import linked_folders
from lensd.watcher.baseline import record_baseline
from lensd.watcher.coverage import Watches
from lensd.watcher.intake import Intake
from lensd.watcher.intake_recorder import Arrival, IntakeRecorder
from lensd.watcher.move_tracker import MoveTracker
from lensd.watcher.root_monitor import RootMonitor
from lensd.watcher.root_states import RootStates
from lensd.watcher.settle import Settler
from lensd.worker import isolated, memory
from lensd.worker.supervisor import Worker

if TYPE_CHECKING:
    from lensd.metrics.exporter import Exporter

STOP_SECONDS = 8.0
PATIENCE_SECONDS = 1.0
HASH_BYTES = 256 << 20  # of the originals that a rebuild hashes before the daemon is ready


class App:
    """The parts, and what both ways of using them need. Only the main loop uses it, but `look`."""

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
        self._inbox = inbox
        self.log = EventLog()
        ledger.on_damaged_row(self._report_damaged_row)
        self.pulse = Pulse()
        self.archive = Archive(
            os.path.realpath(config.archive.path), {w.name: w.root for w in config.watch}
        )
        own_folders.note_all((self.archive.root, os.path.realpath(config.state.path)))
        self.root_states = RootStates((w.root for w in config.watch), inbox)
        self._exporter = self._make_exporter()
        if observer is not None:
            self.log.add(observer.logged)
        self.move_tracker = MoveTracker(config.watch, ledger, self.archive, self.log)
        arrivals: SimpleQueue[Arrival] = SimpleQueue()
        recorder = IntakeRecorder(config.watch, ledger, self.log, arrivals)
        self.intake = Intake(
            config.watch,
            Settler.new(config.settle.quiet_seconds, config.settle.unproven_seconds),
            ledger,
            self.archive,
            self.move_tracker,
            recorder,
            self.pulse.progress,
        )
        self._claims = Claims()
        self._repairs: dict[str, Future[int]] = {}  # roots that the job thread repairs now
        self.root_monitor = RootMonitor(
            config.watch,
            self.intake,
            ledger,
            self._claims,
            self.root_states,
            Watches(inbox),
            rescan_seconds=config.settle.rescan_seconds,
            log=self.log,
        )
        self.context = self._make_context(observer, patient=patient)
        self.job_thread = JobThread(
            self.context,
            {w.root: w.settings for w in config.watch},
            arrivals,
            inbox,
            lambda: opens_in(config.worker.hours, dt.datetime.now().astimezone()),
            self._make_daily_pass(),
            rebuild.RebuildLater(
                config.watch, ledger, self.archive, self.log, self.root_states.must_wait
            ),
        )

    def _make_context(self, observer: ProgressObserver | None, *, patient: bool) -> JobContext:
        worker = self.config.worker
        return JobContext(
            ledger=self.ledger,
            archive=self.archive,
            worker=Worker(
                command=isolated.command("lensd.engine"),
                log=self.log,
                timeout=worker.timeout,
                idle_exit=worker.idle_exit,
                nice=worker.nice,
                memory_limit=memory.limit(worker.memory_limit),
                progress=None if observer is None else report_steps(observer, self.ledger),
            ),
            log=self.log,
            hints=self._inbox,
            root_states=self.root_states,
            move_tracker=self.move_tracker,
            device=worker.device,
            quiet_seconds=self.config.settle.quiet_seconds,
            patient=patient,
        )

    def _report_damaged_row(self, row: int, error: ValueError) -> None:
        message = f"row {row} of the ledger is damaged, and lensd leaves it out; please report this"
        self.log(DaemonError(request=None, message=message, exception=repr(error)))

    def _make_daily_pass(self) -> DailyPass:
        days, quiet = self.config.archive.keep_days, self.config.settle.quiet_seconds
        pruner = None
        if days is not None:
            pruner = Pruner(self.ledger, self.archive, self.log, days, quiet)
        return DailyPass(pruner, self.ledger, self.log)

    def _make_exporter(self) -> Exporter | None:
        path = self.config.metrics.textfile
        if path is None:
            return None
        from lensd.metrics.exporter import Exporter  # not loaded without metrics.textfile

        names = tuple(w.name for w in self.config.watch)
        states = self.root_states
        exporter = Exporter(
            path, __version__, self.ledger, names, lambda: states.degraded, self.log
        )
        self.log.add(exporter.note)
        return exporter

    def prepare(self) -> None:
        """Finish what a crash left, and record the folders that the ledger does not know."""
        observe_clock(self.ledger, self.log)
        self.move_tracker.finish_interrupted_move()
        for folder in (self.archive.root, *(watch.root for watch in self.healthy())):
            self.context.filesystems.prove(folder)
        try:
            fault = recover.recover(self.context)
        except DiskUnavailable as away:
            self.job_thread.back_off(away)
        else:
            if fault is not None and self.context.patient:
                self.job_thread.back_off(
                    DiskUnavailable(fault.reason, fault.disk or self.archive.root, str(fault))
                )
        self.ledger.jobs.release(self.ledger.jobs.quarantined_before(__version__))
        for watch in self.healthy():
            self._record_folder(watch, self.pulse.progress)
        if self._exporter is not None:
            self._exporter.start()

    def healthy(self) -> tuple[Watch, ...]:
        """The watched folders whose files may be changed now."""
        closed = self.root_states.closed
        return tuple(w for w in self.config.watch if w.root not in closed)

    def check_folders(self, now: float) -> None:
        """Check and scan the watched folders, as far as that is due at `now` (monotonic)."""
        for root in self.root_monitor.check_due(now):
            if root not in self._repairs and self.job_thread.is_alive():  # else at a later check
                self._repairs[root] = self.job_thread.submit(partial(self._repair, root))
        self.root_monitor.scan_due(now)

    def take_back(self, root: str, *, is_complete: bool) -> None:
        """After its repair: open a root to jobs again, or leave that to the next check.

        Raises what ended the repair, if that was a bug.
        """
        repair = self._repairs.pop(root, None)
        if repair is None:
            return  # the message is older than a reload
        repair.result()
        if is_complete and self.root_monitor.readmit(root):
            self.job_thread.wake()

    def next(self, due: float) -> Message | None:
        """The next message; None when `due` (monotonic seconds) has come, or up to 1 s earlier."""
        # Python runs a signal's handler in this thread, and one that comes just before the wait
        # begins does not interrupt it: so no wait is long.
        patience = min(PATIENCE_SECONDS, max(0.0, due - time.monotonic()))
        return self._inbox.get(patience)

    def look(self, paths: Iterable[str]) -> None:
        """Let the intake look at paths, and the job thread for jobs. From any thread."""
        for path in paths:
            self._inbox.look(path)
        self.job_thread.wake()

    def is_worked_off(self) -> bool:
        """Whether no job is left, and no path waits for a look."""
        # In this order: the job thread takes a job only when it is not idle, and before it is idle
        # again, it has put the paths that need another look in the inbox.
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

    def _repair(self, root: str) -> int:
        """In the job thread: continue the jobs of a folder that is back."""
        watch = next(w for w in self.config.watch if w.root == root)
        is_complete = False
        try:
            self.context.filesystems.prove(root, again=True)
            recover.continue_jobs(self.context, lambda found: found == root)
            self._record_folder(watch)
            is_complete = True
        except StorageError as fault:
            self.job_thread.back_off(fault)
        except OSError:  # it is gone again, as the next check finds
            pass
        finally:
            self._inbox.put(RootRepaired(root, is_complete))
        return EXIT_OK

    def _record_folder(self, watch: Watch, progress: Callable[[], None] = lambda: None) -> None:
        """Bring the ledger up to date with a folder before its first scan. Raises OSError."""
        hash_bytes = HASH_BYTES if self.context.patient else math.inf
        rebuild.rebuild(watch, self.ledger, self.archive, self.log, progress, hash_bytes=hash_bytes)
        recover.rescue_strays(
            watch.root, watch.name, recursive=watch.recursive, context=self.context
        )
        baseline = record_baseline(watch, self.ledger, self.move_tracker, progress)
        if baseline is not None:
            files, size = baseline
            links = sorted(linked_folders(watch.root)) if watch.recursive else []
            self.log(
                DaemonBaseline(
                    watch=watch.name,
                    path=watch.path,
                    files=files,
                    bytes=size,
                    symlinked_folders=links,
                )
            )
