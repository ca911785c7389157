"""The job thread, the only one that changes files: one job at a time, and requests between jobs.

When a disk is full, read-only or away, the jobs that need it wait until the disk is well again. A
thread that a folder holds, whose filesystem does not answer, is left to finish its one job or
request when the folder answers; another thread takes the next ones
(docs/decisions/0033-folders-that-hang.md).
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from typing import TypeAlias

from lensd.daemon.backoffs import Backoffs
from lensd.daemon.disk_backoff import PROBE_SECONDS
from lensd.daemon.idle_work import IdleWork
from lensd.daemon.inbox import Inbox, Wake
from lensd.errors import LensdError, StorageError
from lensd.jobs import compress
from lensd.jobs.context import JobContext, Settings
from lensd.jobs.daily_prune import DailyPass
from lensd.jobs.data_hashes import DataHashes
from lensd.jobs.rebuild_later import RebuildLater
from lensd.jobs.recover_later import RecoverLater
from lensd.store.ledger import Outcome
from lensd.store.ledger.entry import Entry
from lensd.watcher.intake_recorder import Arrival
from lensd.worker.supervisor import Worker

FileRequest: TypeAlias = Callable[[], int]
UNKNOWN_SECONDS = 30.0  # for what may be in any root, while one of them does not answer
LONGEST_REST_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class _Task:
    """What the thread does now. `root` is None where it may be in any root."""

    root: str | None
    began: float


class JobThread:
    """Takes jobs from the ledger, in one thread at a time.

    `arrivals` has a message for each job that the intake made since the start. `opens_in()` returns
    in how many seconds jobs may begin, 0 for now.
    """

    def __init__(
        self,
        context: JobContext,
        settings: Mapping[str, Settings],
        arrivals: SimpleQueue[Arrival],
        inbox: Inbox,
        opens_in: Callable[[], float] = lambda: 0.0,
        daily: DailyPass | None = None,
        rebuild_later: RebuildLater | None = None,
        data_hashes: DataHashes | None = None,
    ) -> None:
        self.error: BaseException | None = None
        self._thread = self._new_thread()
        self._turn = threading.Lock()  # for the thread and its task
        self._task: _Task | None = None
        self.idle = threading.Event()
        self._context = context
        self._settings = settings
        self._arrivals = arrivals
        self._first_seen: dict[str, float] = {}  # by job
        self._inbox = inbox
        self._opens_in = opens_in
        self._recover_later = RecoverLater(context)
        self._idle_work = IdleWork(
            context.archive.root,
            context.root_states,
            rebuild_later,
            data_hashes,
            daily,
            self._recover_later,
            self.wake,
        )
        self._wake = threading.Event()
        self._requests: SimpleQueue[tuple[FileRequest, Future[int], str | None]] = SimpleQueue()
        self.backoffs = Backoffs(context, settings)
        self._idle_since = time.monotonic()

    def start(self) -> None:
        self._thread.start()

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def thread(self) -> threading.Thread:
        """The one that takes jobs now."""
        return self._thread

    @property
    def worker(self) -> Worker:
        """The worker process of the thread that takes jobs now."""
        return self._context.worker

    def leave(self, hanging: frozenset[str]) -> tuple[threading.Thread, frozenset[str]] | None:
        """Let another thread take the next jobs, if a root that hangs holds this one.

        Returns the thread that is left, and the roots where no other thread may work until it has
        ended. It ends after what it does now.
        """
        with self._turn:
            if self._context.stopping.is_set() or not self.is_held(hanging):
                return None
            roots = hanging if self._task is None or self._task.root is None else self.roots()
            worker = replace(self._context.worker, _process=None, _last_look=None)
            self._context = replace(self._context, worker=worker)
            left, self._thread, self._task = self._thread, self._new_thread(), None
            self._thread.start()
            return left, roots

    def is_held(self, hanging: frozenset[str]) -> bool:
        """Whether a root that hangs holds the thread. From any thread."""
        task = self._task
        if not hanging or task is None:
            return False
        is_long = time.monotonic() - task.began > UNKNOWN_SECONDS
        return task.root in hanging or (task.root is None and is_long)

    def roots(self) -> frozenset[str]:
        """Where the thread may be now; all roots if that is unknown. From any thread."""
        task = self._task
        return frozenset(self._settings if task is None or task.root is None else {task.root})

    def require_current(self) -> None:
        """In a request: raises LensdError after `leave`, so that it ends."""
        if not self._is_current():
            raise LensdError("a watched folder did not answer for long, so lensd ended the request")

    def _new_thread(self) -> threading.Thread:
        return threading.Thread(target=self.run, name="jobs", daemon=True)

    def _is_current(self) -> bool:
        return threading.current_thread() is self._thread

    def _begin(self, root: str | None = None) -> bool:
        """Note what this thread is about to do. False after `leave`: it must not."""
        with self._turn:
            if self._is_current():
                self._task = _Task(root, time.monotonic())
            return self._is_current()

    def _end(self) -> bool:
        """Note that this thread is in no root. False after `leave`."""
        with self._turn:
            if self._is_current():
                self._task = None
            return self._is_current()

    def wake(self) -> None:
        """There may be a new job."""
        self.idle.clear()
        self._wake.set()

    def submit(self, request: FileRequest, root: str | None = None) -> Future[int]:
        """Let this thread run a request, which changes files, between two jobs. From any thread.

        `root`: the only one that it works in. The result is its exit code, or what it raises;
        LensdError if the thread ends before.
        """
        result: Future[int] = Future()
        self._requests.put((request, result, root))
        self.wake()
        if self._thread.ident is not None and not self.is_alive():  # it has ended
            self._dismiss_requests()
        return result

    def finish(self, timeout: float) -> bool:
        """Give up the running job and end; False if that took longer than `timeout` seconds."""
        self._context.stopping.set()
        self._wake.set()
        self._thread.join(timeout)
        return not self.is_alive()

    def run(self) -> None:
        worker = self._context.worker
        try:
            while not self._context.stopping.is_set() and self._begin():
                self._wake.clear()  # first: any wake from here on ends the rest
                if not (self._run_request() or self._run_job()):
                    self._do_idle_work()
                    if self._end():
                        self._rest()
        except BaseException as error:  # noqa: BLE001  the main loop must end with it
            self.error = error
        finally:
            worker.stop("shutdown")
            if self._is_current():
                self._dismiss_requests()
                self.idle.set()
            self._inbox.put(Wake())

    def _run_request(self) -> bool:
        """One request, if one waits."""
        try:
            request, result, root = self._requests.get_nowait()
        except Empty:
            return False
        if not self._begin(root):
            self._requests.put((request, result, root))
            return True
        try:
            result.set_result(request())
        except BaseException as error:  # noqa: BLE001  it belongs to the thread that waits
            result.set_exception(error)
        return True

    def _do_idle_work(self) -> None:
        if not self._context.patient or self.backoffs.hold_archive():
            return
        try:
            is_done = self._idle_work.run(self._begin, self._has_other_work)
        except StorageError as fault:
            self.back_off(fault, of_pass=True)
        else:
            if is_done:
                self.backoffs.end_of_pass()

    def _has_other_work(self) -> bool:
        is_over = self._context.stopping.is_set() or not self._is_current()
        return is_over or self._wake.is_set()

    def _dismiss_requests(self) -> None:
        """Answer the requests that this thread cannot run any more."""
        with contextlib.suppress(Empty):
            while True:
                _, result, _ = self._requests.get_nowait()
                result.set_exception(LensdError("lensd is stopping; try again when it is back"))

    def _run_job(self) -> bool:
        """One job, if one may begin. False if there is nothing to do now."""
        states = self._context.root_states
        if not states.answers(self._context.archive.root):
            return False
        if self._context.patient and self._opens_in() > 0:
            return False
        waiting = self.backoffs.roots_waiting()
        entry = self.next_job(waiting)
        while entry is not None and states.must_wait(entry.root):  # from now on it is closed
            entry = self.next_job(waiting)
        if entry is None:
            self.backoffs.end_without_jobs(waiting)
            return False
        self.idle.clear()  # while its row still says `queued`
        context = self._context  # with the worker of this thread
        if self._begin(entry.root):
            self._process(entry, context)
        self._idle_since = time.monotonic()
        self._inbox.put(Wake())
        return True

    def next_job(self, waiting: frozenset[str] = frozenset()) -> Entry | None:
        """The job that may begin next outside of the roots that wait. From any thread."""
        context, jobs = self._context, self._context.ledger.jobs
        closed, given_up = context.root_states.closed | waiting, tuple(context.given_up)
        if context.patient:
            return jobs.next_queued(without=closed, but=given_up)
        # `once` treats the files now, whatever is paused or postponed
        return jobs.next_queued(math.inf, without=closed, but=given_up, heed_pauses=False)

    def _process(self, entry: Entry, context: JobContext) -> None:
        waited = self._seconds_since_first_seen(entry.job_id)
        settings = self._settings.get(entry.root)
        if settings is None:
            message = "its folder is not watched any more"
            context.ledger.jobs.finish(entry.job_id, Outcome.SUPERSEDED, message=message)
            return
        try:
            compress.process(entry, settings, context, waited)
        except StorageError as fault:
            self.back_off(fault)
        else:
            if self._end():
                self.backoffs.end_of(entry.root)

    def _seconds_since_first_seen(self, job_id: str) -> float:
        """0 for a job of an earlier run."""
        with contextlib.suppress(Empty):
            while True:
                arrival = self._arrivals.get_nowait()
                self._first_seen[arrival.job_id] = arrival.first_seen
        now = time.monotonic()
        return max(0.0, now - self._first_seen.pop(job_id, now))

    def back_off(self, fault: StorageError, *, of_pass: bool = False) -> None:
        """Begin no job that needs a disk until it is well again.

        `of_pass`: idle work met the fault. Raises the fault if the context is impatient. After
        `leave` without effect: the next job finds the fault again.
        """
        if not self._context.patient:
            raise fault
        found = self.backoffs.look_at(fault, of_pass=of_pass)  # this thread may be left meanwhile
        if self._is_current():
            self.backoffs.add(found)

    def _rest(self) -> None:
        """Wait for work; end a worker process that was idle for long enough."""
        self.idle.set()
        self._inbox.put(Wake())
        worker = self._context.worker
        idle = time.monotonic() - self._idle_since
        if worker.running and idle >= worker.idle_limit:
            worker.stop("idle")
        self._wake.wait(self._rest_seconds(idle))

    def _rest_seconds(self, idle: float) -> float:
        seconds = LONGEST_REST_SECONDS
        worker = self._context.worker
        if worker.running:
            seconds = min(seconds, max(0.0, worker.idle_limit - idle))
        if self.backoffs:
            seconds = min(seconds, PROBE_SECONDS)
        if not self._context.patient:
            return seconds
        if (due_in := self._recover_later.due_in()) > 0:  # 0: idle work waits for something else
            seconds = min(seconds, due_in)
        if (opens_in := self._opens_in()) > 0:
            seconds = min(seconds, opens_in)
        due = self._context.ledger.jobs.next_due()
        return seconds if due is None else min(seconds, max(0.0, due - time.time()))
