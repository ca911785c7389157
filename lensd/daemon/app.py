"""A working lensd for one configuration: its threads, from start to end; `run` and `once` use it.

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
IntakeFaults                 its lock       each root reports
MoveTracker                  its lock       root and jobs: one move at a time, one crash note
Backoffs                     jobs           answers notes an archive that hangs
Workers                      jobs           main reads Workers.is_fresh and JobThread.error
running jobs                 jobs           a thread that is left hands its job over by a queue
JobThread's thread and task  its lock       answers lets another thread take the next jobs
RebuildLater                 jobs           its note in the ledger, which a start reads
times of first sight         jobs           the queue of Arrivals, which the intake fills
requests that change files   jobs           JobThread.submit: a queue, and a Future for the result
Ledger                       its lock       every thread: one connection to the database
Archive                      its lock       jobs put in; root renames for a moved file
Filesystems                  its lock       jobs prove each mount once
JobContext.given_up          jobs           main asks which job is next
EventLog                     -              every thread; its listeners never change
LatestSteps                  jobs           requests read its values, which never change
Counts (metrics)             its lock       every thread counts; metrics reads
FolderEmitter                its thread     root starts and stops it; it puts events in a queue
leases                       their lock     jobs take them; the thread `lease` releases them
Notifier's process           its lock       notifier starts it; main ends it
JobContext.stopping          -              an Event: main sets it, jobs and control read it

Threads: main (the main loop), jobs (the job thread), root (one per watched folder), inotify and
events (watchdog's, for each root), answers, question (one per folder that is asked), deadline (one
per call that may hang), control (one per request), metrics, lease, notifier. The main loop makes
no call to a watched folder, the archive or the ledger, any of which may hang; in `lensd once` the
main thread does the work of `root`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial

from lensd.config.model import Config, Watch
from lensd.daemon.answer_watch import AnswerWatch
from lensd.daemon.inbox import Inbox, Message
from lensd.daemon.intake_faults import IntakeFaults
from lensd.daemon.notifier import Notifier
from lensd.daemon.parts import Parts
from lensd.daemon.progress import ProgressObserver
from lensd.daemon.repairs import Repairs
from lensd.daemon.root_thread import RootThread, Services
from lensd.daemon.stragglers import Stragglers
from lensd.daemon.systemd_notify import Pulse
from lensd.errors import EXIT_OK, DiskUnavailable, StorageError
from lensd.jobs.gone_files import GoneFiles
from lensd.store.ledger import Ledger
from lensd.watcher.intake import Intake
from lensd.watcher.root_monitor import RootMonitor

STOP_SECONDS = 8.0
# From the `stop` of the thread of a root until it counts as a straggler.
LEAVE_SECONDS = 2.0
PATIENCE_SECONDS = 1.0
NOTIFY_SECONDS = 5.0  # for the last message


class App:
    """What both ways of running need. Only the main loop uses it, but `look`."""

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
        parts = self._parts = Parts(config, ledger, patient=patient, observer=observer)
        self.config, self.ledger, self.log = config, ledger, parts.log
        self.archive, self.root_states = parts.archive, parts.root_states
        self.move_tracker = parts.move_tracker
        self.latest_steps = parts.latest_steps
        self.pulse = Pulse()
        self._inbox = inbox
        self._stragglers = stragglers or Stragglers()
        self._exporter = parts.make_exporter()
        self._notifier = Notifier(config.source) if config.notify.is_wanted else None
        if observer is not None:
            self.log.add(observer.logged)
        self.context = parts.make_context()
        self.job_thread = parts.make_job_thread(self.context, inbox)
        self._repairs = Repairs(
            config.watch, self.context, self.job_thread.back_off, parts.hints.put
        )
        self._preparation: Future[int] | None = None
        self._threads: list[RootThread] = []  # in `run`
        self._answer_watch: AnswerWatch | None = None

    def watch_here(self) -> RootMonitor:
        """For `once`: watch all folders in this thread, as far as they are there."""
        for watch in self.config.watch:
            self._parts.hints.add(watch.root, self._inbox)
        self.ledger.state.clear_waiting()
        self.intake, monitor = self._parts.make_watching(
            self.config.watch, self._inbox, self.pulse.progress, self.log
        )
        monitor.check_all()
        return monitor

    def _make_threads(self) -> list[RootThread]:
        services = Services(
            self.root_states,
            self._stragglers,
            IntakeFaults(self.config.state.path, self.log),
            self.log,
            repair=lambda root: self.job_thread.submit(partial(self._repairs.repair, root), root),
            may_repair=self._is_each_root_checked,
            wake_jobs=self.job_thread.wake,
            wake_all=self._wake_all,
        )
        return [
            RootThread(watch.root, partial(self._parts.make_watching, [watch]), services)
            for watch in self.config.watch
        ]

    def _is_each_root_checked(self) -> bool:
        hanging = self.root_states.hanging
        return all(t.has_checked.is_set() or t.root in hanging for t in self._threads)

    def _wake_all(self) -> None:
        self._inbox.wake()
        for thread in self._threads:
            thread.inbox.wake()

    def start(self) -> None:
        """For `run`: start all threads. They find out by themselves which folders are there."""
        self._threads = self._make_threads()
        self._answer_watch = AnswerWatch(
            ((w.root, w.path, w.name) for w in self.config.watch),
            self._threads,
            self.root_states,
            self._parts.degraded,
            self.job_thread,
            self._stragglers,
            self.log,
        )
        for thread in self._threads:
            self._parts.hints.add(thread.root, thread.inbox)
        self._preparation = self.job_thread.submit(self._prepare_in_job_thread)
        self.job_thread.start()
        for thread in self._threads:
            thread.start()
        self._answer_watch.start()
        if self._notifier is not None:
            self._notifier.start()

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
        return events and self.job_thread.workers.is_fresh(time.monotonic())

    def prepare(self) -> None:
        """Finish what a crash left, and record the folders that the ledger does not know."""
        self._repairs.finish_crash()
        for watch in self.healthy():
            self.context.filesystems.prove(watch.root)
            self._repairs.record_folder(watch, self.pulse.progress)
        if self._exporter is not None:
            self._exporter.start()

    def find_deleted(self) -> None:
        """For `once`: leave what a person deleted out of the totals."""
        with suppress(DiskUnavailable):
            GoneFiles(self.ledger, self.archive, self.log).look()

    def _prepare_in_job_thread(self) -> int:
        """All roots are closed as yet: each is repaired when it was found to be there."""
        self.ledger.state.disk_backoff.clear()
        self.ledger.state.clear_waiting()
        self._repairs.finish_crash()
        if self._exporter is not None:
            self._exporter.start()
        return EXIT_OK

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
            self._parts.hints.look(path)
        self.job_thread.wake()

    def is_worked_off(self) -> bool:
        """Whether no job is left, and no path waits for a look."""
        # In this order: the job thread takes a job only when it is not idle, and before it is idle
        # again, it has put the paths that need another look in the inbox.
        if self.job_thread.has_jobs():
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
        if self._notifier is not None:
            self._notifier.finish(NOTIFY_SECONDS)
        if not self._stragglers.exist():  # which may still use it
            self._parts.claims.close()
        if self.archive.root not in self.root_states.hanging:
            with suppress(StorageError):  # a full disk; `status` ignores the note of a dead daemon
                self._parts.degraded.clear()
