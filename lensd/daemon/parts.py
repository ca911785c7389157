"""The parts that all threads share, for one configuration, and the parts that are made of them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import TYPE_CHECKING

from lensd import __version__
from lensd.config.model import Config, Watch
from lensd.config.schedule import opens_in
from lensd.daemon.event_log import EventLog
from lensd.daemon.inbox import HintRouter, Inbox
from lensd.daemon.job_thread import JobThread
from lensd.daemon.progress import LatestSteps, ProgressObserver, report_steps
from lensd.daemon.root_thread import Watching
from lensd.jobs.context import JobContext
from lensd.jobs.daily_prune import DailyPass
from lensd.jobs.data_hashes import DataHashes
from lensd.jobs.filesystems import Filesystems
from lensd.jobs.gone_files import GoneFiles
from lensd.jobs.prune import Pruner
from lensd.jobs.rebuild_later import RebuildLater
from lensd.logs.events import DaemonError
from lensd.store import own_folders
from lensd.store.archive import Archive
from lensd.store.deadline import real_path
from lensd.store.ledger import Ledger
from lensd.store.ledger.entry import Entry
from lensd.store.locks import Claims
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
from lensd.worker.pool import WorkerPool
from lensd.worker.supervisor import Worker
from lensd.worker.workers import Workers

if TYPE_CHECKING:
    from lensd.metrics.exporter import Exporter


class Parts:
    """The table at the top of `app` names the owner of each. `patient`: for `run`."""

    def __init__(
        self,
        config: Config,
        ledger: Ledger,
        *,
        patient: bool,
        observer: ProgressObserver | None = None,
    ) -> None:
        self.config = config
        self.ledger = ledger
        worker = config.worker
        self.processes = memory.count_processes(worker.processes, worker.memory_limit)
        self.log = EventLog()
        ledger.on_damaged_row(self._report_damaged_row)
        self.archive = Archive(
            real_path(config.archive.path), {w.name: w.root for w in config.watch}
        )
        own_folders.note_all((self.archive.root, real_path(config.state.path)))
        self.hints = HintRouter()
        roots = [w.root for w in config.watch]
        asked = [*roots, self.archive.root] if patient else []
        self.root_states = RootStates(roots, self.hints, asked)
        self.degraded = DegradedRoots(ledger)
        self.move_tracker = MoveTracker(
            config.watch, ledger, self.archive, self.log, self.root_states.answers
        )
        self.claims = Claims()
        self.latest_steps = LatestSteps()
        self._running: dict[str, Entry] = {}
        self._arrivals: SimpleQueue[Arrival] = SimpleQueue()
        self._patient = patient
        self._observer = observer or ProgressObserver()

    def _report_damaged_row(self, row: int, error: ValueError) -> None:
        message = f"row {row} of the ledger is damaged, and lensd leaves it out; please report this"
        self.log(DaemonError(request=None, message=message, exception=repr(error)))

    def make_watching(
        self, folders: Sequence[Watch], inbox: Inbox, progress: Callable[[], None], log: Log
    ) -> Watching:
        """What watches these folders, for the thread that calls it."""
        config, ledger = self.config, self.ledger
        intake = Intake(
            folders,
            Settler.new(config.settle.quiet_seconds, config.settle.unproven_seconds),
            ledger,
            self.archive,
            self.move_tracker,
            IntakeRecorder(folders, ledger, log, self._arrivals, self._observer.waiting),
            progress,
        )
        monitor = RootMonitor(
            folders,
            intake,
            ledger,
            self.claims,
            self.root_states,
            self.degraded,
            Watches(inbox, progress),
            rescan_seconds=config.settle.rescan_seconds,
            log=log,
        )
        return Watching(intake, monitor)

    def make_context(self) -> JobContext:
        return JobContext(
            ledger=self.ledger,
            archive=self.archive,
            log=self.log,
            hints=self.hints,
            root_states=self.root_states,
            move_tracker=self.move_tracker,
            filesystems=Filesystems(self.ledger),
            device=self.config.worker.device,
            quiet_seconds=self.config.settle.quiet_seconds,
            patient=self._patient,
            running=self._running,
        )

    def _make_worker(self) -> Worker:
        worker = self.config.worker
        return Worker(
            command=isolated.command("lensd.engine"),
            log=self.log,
            timeout=worker.timeout,
            idle_exit=worker.idle_exit,
            nice=worker.nice,
            memory_limit=memory.limit(worker.memory_limit, self.processes),
            processes=self.processes,
            progress=report_steps(self._observer, self._running, self.latest_steps),
        )

    def _make_workers(self) -> Workers:
        """Processes of this machine, or a cluster."""
        local = WorkerPool(self._make_worker, self.processes)
        worker = self.config.worker
        if worker.cluster is None:
            return local
        # not loaded without worker.cluster
        from lensd.daemon.cluster_settings import cluster_settings
        from lensd.worker.cluster.workers import ClusterWorkers

        has_fallback = worker.cluster_fallback == "local"
        settings = cluster_settings(worker)
        return ClusterWorkers(settings, self.log, worker.idle_exit, local if has_fallback else None)

    def make_job_thread(self, context: JobContext, inbox: Inbox) -> JobThread:
        watches, hours = self.config.watch, self.config.worker.hours
        return JobThread(
            context,
            self._make_workers(),
            {w.root: w.settings for w in watches},
            self._arrivals,
            inbox,
            lambda: opens_in(hours, dt.datetime.now().astimezone()),
            self._note_end,
            self._make_daily_pass(),
            RebuildLater(watches, self.ledger, self.archive, self.log, self.root_states.must_wait),
            DataHashes(self.ledger, self.archive),
        )

    def _note_end(self, entry: Entry) -> None:
        self.latest_steps.remove(entry.job_id)
        self._observer.ended(entry.full_path)

    def _make_daily_pass(self) -> DailyPass:
        keep, quiet = self.config.archive.rules(), self.config.settle.quiet_seconds
        pruner = None
        if keep.has_any:
            pruner = Pruner(self.ledger, self.archive, self.log, keep, quiet)
        gone = GoneFiles(self.ledger, self.archive, self.log)
        return DailyPass(pruner, self.ledger, self.log, gone)

    def make_exporter(self) -> Exporter | None:
        """What writes the metrics; None without `metrics.textfile`."""
        path = self.config.metrics.textfile
        if path is None:
            return None
        from lensd.metrics.exporter import Exporter  # not loaded without metrics.textfile

        names = tuple(w.name for w in self.config.watch)
        degraded = self.degraded
        exporter = Exporter(path, __version__, self.ledger, names, lambda: degraded.names, self.log)
        self.log.add(exporter.note)
        return exporter
