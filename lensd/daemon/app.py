"""Builds the parts of a working lensd for one configuration; `run` and `once` use them.

Each piece of state that several threads need has one owner:

state                        owner          others reach it by
---------------------------  -------------  ----------------------------------------------------
Intake, Settler, SteadyClock root           its Inbox: hints
RootMonitor, Watches         root           its Inbox: hints
Inbox                        its thread     its queue; the set of waiting hints has a lock
RootStates                   its lock       root opens and closes; jobs ask; answers silences
DegradedRoots                its lock       root and answers report; metrics read the names
Question                     its lock       answers and jobs ask; a thread of its own is asked
Stragglers                   its lock       answers and main add; root waits for them
LedgerFaults                 its lock       each root reports
MoveTracker                  its lock       root and jobs: one move at a time, one crash note
Backoffs                     jobs           answers notes an archive that hangs
Worker                       jobs           main reads Worker.is_fresh and JobThread.error
JobThread's thread and task  its lock       answers lets another thread take the next jobs
RebuildLater                 jobs           its note in the ledger, which a start reads
times of first sight         jobs           the queue of Arrivals, which the intake fills
requests that change files   jobs           JobThread.submit: a queue, and a Future for the result
Ledger                       its lock       every thread: one connection to the database
Archive                      its lock       jobs put in; root renames for a moved file
Filesystems                  its lock       jobs prove each mount once
JobContext.given_up          jobs           main asks which job is next
EventLog                     -              every thread; its listeners never change
Counts (metrics)             its lock       every thread counts; metrics reads
FolderEmitter                its thread     root starts and stops it; it puts events in a queue
leases                       their lock     jobs take them; the thread `lease` releases them
JobContext.stopping          -              an Event: main sets it, jobs and control read it

Threads: main (the main loop), jobs (the job thread), root (one per watched folder), inotify and
events (watchdog's, for each root), answers, question (one per folder that is asked), deadline (one
per call that may hang), control (one per request), metrics, lease. The main loop makes no call to a
watched folder, the archive or the ledger, any of which may hang; in `lensd once` the main thread
does the work of `root`.
"""

from __future__ import annotations

import datetime as dt
import math
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING

from lensd import __version__
from lensd.config.model import Config, Watch
from lensd.config.schedule import opens_in
from lensd.daemon.answer_watch import AnswerWatch
from lensd.daemon.event_log import EventLog
from lensd.daemon.inbox import HintRouter, Inbox, Message, RootRepaired
from lensd.daemon.job_thread import JobThread
from lensd.daemon.ledger_faults import LedgerFaults
from lensd.daemon.progress import ProgressObserver, report_steps
from lensd.daemon.root_thread import RootThread, Services, Watching
from lensd.daemon.stragglers import Stragglers
from lensd.daemon.systemd_notify import Pulse
from lensd.errors import EXIT_OK, DiskUnavailable, Failed, StorageError
from lensd.jobs import recover
from lensd.jobs.context import JobContext
from lensd.jobs.daily_prune import DailyPass, observe_clock
from lensd.jobs.filesystems import Filesystems
from lensd.jobs.prune import Pruner
from lensd.jobs.rebuild import rebuild
from lensd.jobs.rebuild_later import RebuildLater
from lensd.logs.events import DaemonBaseline, DaemonError
from lensd.store import own_folders
from lensd.store.archive import Archive
from lensd.store.deadline import real_path
from lensd.store.ledger import Ledger
from lensd.store.locks import Claims
from lensd.store.walk import linked_folders
from lensd.watcher.baseline import record_baseline
from lensd.watcher.coverage import Watches
from lensd.watcher.degraded_roots import DegradedRoots
from lensd.watcher.folder import Log
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
# From the `stop` of the thread of a root until it counts as a straggler.
LEAVE_SECONDS = 2.0
PATIENCE_SECONDS = 1.0
HASH_BYTES = 256 << 20  # of the originals that a rebuild hashes before the daemon is ready


class _Stopping(Exception):
    """lensd ends; what the repair of a folder has not done, it does after the next start."""


class App:
    """The parts, and what both ways of using them need. Only the main loop uses it, but `look`."""

    intake: Intake  # in `once`; in `run` each root has its own

    def __init__(
        self,
        config: Config,
        ledger: Ledger,
        inbox: Inbox,
        *,
        patient: bool,
        observer: ProgressObserver | None = None,
        stragglers: Stragglers | None = None,
    ) -> None:
        self.config = config
        self.ledger = ledger
        self._inbox = inbox
        self._hints = HintRouter()
        self._stragglers = stragglers or Stragglers()
        self.log = EventLog()
        ledger.on_damaged_row(self._report_damaged_row)
        self.pulse = Pulse()
        self.archive = Archive(
            real_path(config.archive.path), {w.name: w.root for w in config.watch}
        )
        own_folders.note_all((self.archive.root, real_path(config.state.path)))
        roots = [w.root for w in config.watch]
        asked = [*roots, self.archive.root] if patient else []
        self.root_states = RootStates(roots, self._hints, asked)
        self._degraded = DegradedRoots(ledger)
        self._exporter = self._make_exporter()
        if observer is not None:
            self.log.add(observer.logged)
        self.move_tracker = MoveTracker(
            config.watch, ledger, self.archive, self.log, self.root_states.answers
        )
        self._arrivals: SimpleQueue[Arrival] = SimpleQueue()
        self._claims = Claims()
        self._preparation: Future[int] | None = None
        self.context = self._make_context(observer, patient=patient)
        self.job_thread = JobThread(
            self.context,
            {w.root: w.settings for w in config.watch},
            self._arrivals,
            inbox,
            lambda: opens_in(config.worker.hours, dt.datetime.now().astimezone()),
            self._make_daily_pass(),
            RebuildLater(config.watch, ledger, self.archive, self.log, self.root_states.must_wait),
        )
        self._threads: list[RootThread] = []  # in `run`
        self._answer_watch: AnswerWatch | None = None

    def make_watching(
        self,
        folders: Sequence[Watch],
        inbox: Inbox,
        progress: Callable[[], None],
        log: Log,
    ) -> Watching:
        """What watches these folders, for the thread that calls it."""
        config, ledger = self.config, self.ledger
        intake = Intake(
            folders,
            Settler.new(config.settle.quiet_seconds, config.settle.unproven_seconds),
            ledger,
            self.archive,
            self.move_tracker,
            IntakeRecorder(folders, ledger, log, self._arrivals),
            progress,
        )
        monitor = RootMonitor(
            folders,
            intake,
            ledger,
            self._claims,
            self.root_states,
            self._degraded,
            Watches(inbox, progress),
            rescan_seconds=config.settle.rescan_seconds,
            log=log,
        )
        return Watching(intake, monitor)

    def watch_here(self) -> RootMonitor:
        """For `once`: watch all folders in this thread, as far as they are there."""
        for watch in self.config.watch:
            self._hints.add(watch.root, self._inbox)
        self.ledger.state.clear_waiting()
        self.intake, monitor = self.make_watching(
            self.config.watch, self._inbox, self.pulse.progress, self.log
        )
        monitor.check_all()
        return monitor

    def _make_threads(self) -> list[RootThread]:
        services = Services(
            self.root_states,
            self._stragglers,
            LedgerFaults(self.config.state.path, self.log),
            self.log,
            repair=lambda root: self.job_thread.submit(partial(self._repair, root), root),
            may_repair=self._is_each_root_checked,
            wake_jobs=self.job_thread.wake,
            wake_all=self._wake_all,
        )
        return [
            RootThread(watch.root, partial(self.make_watching, [watch]), services)
            for watch in self.config.watch
        ]

    def _is_each_root_checked(self) -> bool:
        hanging = self.root_states.hanging
        return all(t.has_checked.is_set() or t.root in hanging for t in self._threads)

    def _wake_all(self) -> None:
        self._inbox.wake()
        for thread in self._threads:
            thread.inbox.wake()

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
            hints=self._hints,
            root_states=self.root_states,
            move_tracker=self.move_tracker,
            filesystems=Filesystems(self.ledger),
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
        degraded = self._degraded
        exporter = Exporter(path, __version__, self.ledger, names, lambda: degraded.names, self.log)
        self.log.add(exporter.note)
        return exporter

    def start(self) -> None:
        """For `run`: start all threads. They find out by themselves which folders are there."""
        self._threads = self._make_threads()
        self._answer_watch = AnswerWatch(
            ((w.root, w.path, w.name) for w in self.config.watch),
            self._threads,
            self.root_states,
            self._degraded,
            self.job_thread,
            self._stragglers,
            self.log,
        )
        for thread in self._threads:
            self._hints.add(thread.root, thread.inbox)
        self._preparation = self.job_thread.submit(self._prepare_in_job_thread)
        self.job_thread.start()
        for thread in self._threads:
            thread.start()
        self._answer_watch.start()

    @property
    def has_started(self) -> bool:
        """Whether each root was scanned, or is degraded. Raises what ended the preparation."""
        preparation, hanging = self._preparation, self.root_states.hanging
        if preparation is None or not (preparation.done() or self.archive.root in hanging):
            return False
        if preparation.done():
            preparation.result()
        return all(t.has_started.is_set() or t.root in hanging for t in self._threads)

    @property
    def is_well(self) -> bool:
        """Whether the watchdog may know that all parts run. Raises what ended one of them."""
        answers = None if self._answer_watch is None else self._answer_watch.error
        for error in (answers, self.job_thread.error, *(t.error for t in self._threads)):
            if error is not None:
                raise error
        events = all(thread.events_arrive for thread in self._threads)
        return events and self.job_thread.worker.is_fresh(time.monotonic())

    def prepare(self) -> None:
        """Finish what a crash left, and record the folders that the ledger does not know."""
        self._finish_crash()
        for watch in self.healthy():
            self.context.filesystems.prove(watch.root)
            self._record_folder(watch, self.pulse.progress)
        if self._exporter is not None:
            self._exporter.start()

    def _prepare_in_job_thread(self) -> int:
        """All roots are closed as yet: each is repaired when it was found to be there."""
        self.ledger.state.disk_backoff.clear()
        self.ledger.state.clear_waiting()
        self._finish_crash()
        if self._exporter is not None:
            self._exporter.start()
        return EXIT_OK

    def _finish_crash(self) -> None:
        observe_clock(self.ledger, self.log)
        self.move_tracker.finish_interrupted_move()
        self.context.filesystems.prove(self.archive.root)
        self._wait_for_disk(lambda: recover.recover(self.context))
        self.ledger.jobs.release(self.ledger.jobs.quarantined_before(__version__))

    def _wait_for_disk(self, finish: Callable[[], Failed | None]) -> None:
        """Let jobs wait where a disk does not permit to finish what a crash left."""
        try:
            fault = finish()
        except DiskUnavailable as away:
            self.job_thread.back_off(away)
            return
        if fault is not None and self.context.patient:
            self.job_thread.back_off(
                DiskUnavailable(fault.reason, fault.disk or self.archive.root, str(fault))
            )

    def healthy(self) -> tuple[Watch, ...]:
        """The watched folders whose files may be changed now."""
        closed = self.root_states.closed
        return tuple(w for w in self.config.watch if w.root not in closed)

    def next(self, due: float) -> Message | None:
        """The next message; None when `due` (monotonic seconds) has come, or up to 1 s earlier."""
        # Python runs a signal's handler in this thread, and one that comes just before the wait
        # begins does not interrupt it: so no wait is long.
        patience = min(PATIENCE_SECONDS, max(0.0, due - time.monotonic()))
        return self._inbox.get(patience)

    def look(self, paths: Iterable[str]) -> None:
        """Let the intake look at paths, and the job thread for jobs. From any thread."""
        for path in paths:
            self._hints.look(path)
        self.job_thread.wake()

    def is_worked_off(self) -> bool:
        """Whether no job is left, and no path waits for a look."""
        # In this order: the job thread takes a job only when it is not idle, and before it is idle
        # again, it has put the paths that need another look in the inbox.
        if self.job_thread.next_job() is not None:
            return False
        return self.job_thread.idle.is_set() and self._inbox.empty()

    def close(self) -> None:
        """End all threads; a job under way begins again with the next start.

        A thread that a folder holds is a straggler.
        """
        if self._answer_watch is not None:
            self._answer_watch.stop()
        for thread in self._threads:
            thread.stop()
        is_held = self.job_thread.is_held(self.root_states.hanging)
        seconds = LEAVE_SECONDS if is_held else STOP_SECONDS
        if self.job_thread.is_alive() and not self.job_thread.finish(seconds):
            self._stragglers.add(self.job_thread.thread, self.job_thread.roots())
        deadline = time.monotonic() + LEAVE_SECONDS
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                self._stragglers.add(thread, [thread.root])
        if self._exporter is not None:
            self._exporter.finish(STOP_SECONDS)
        if not self._stragglers.exist():  # which may still use it
            self._claims.close()
        if self.archive.root not in self.root_states.hanging:
            with suppress(StorageError):  # a full disk; `status` ignores the note of a dead daemon
                self._degraded.clear()

    def _repair(self, root: str) -> int:
        """In the job thread: continue the jobs of a folder that is back."""
        watch = next(w for w in self.config.watch if w.root == root)
        is_complete = False
        try:
            if root in self.root_states.hanging:  # another thread may have been left in it
                return EXIT_OK
            self.context.filesystems.prove(root, again=True)
            self._wait_for_disk(
                lambda: recover.continue_jobs(self.context, lambda found: found == root)
            )
            self._record_folder(watch, self._go_on)
            is_complete = True
        except _Stopping:
            pass
        except StorageError as fault:
            self.job_thread.back_off(fault)
        except OSError:  # it is gone again, as the next check finds
            pass
        finally:
            self._hints.put(RootRepaired(root, is_complete))
        return EXIT_OK

    def _go_on(self) -> None:
        if self.context.stopping.is_set():
            raise _Stopping

    def _record_folder(self, watch: Watch, progress: Callable[[], None]) -> None:
        """Bring the ledger up to date with a folder before its first scan. Raises OSError."""
        hash_bytes = HASH_BYTES if self.context.patient else math.inf
        rebuild(watch, self.ledger, self.archive, self.log, progress, hash_bytes=hash_bytes)
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
