"""The job thread, the only one that changes files: the steps of all jobs, and requests.

While worker processes compute for some jobs, the thread begins others and takes their next steps,
one step at a time. A request waits until no job runs in its folder. When a disk is full, read-only
or away, the jobs that need it wait until the disk is well again. A thread that a folder holds,
whose filesystem does not answer, is left to finish its one step or request when the folder answers;
another thread takes the next ones and all other jobs (docs/decisions/0033-folders-that-hang.md).
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from lensd.daemon.backoffs import Backoffs
from lensd.daemon.disk_backoff import PROBE_SECONDS
from lensd.daemon.file_requests import FileRequests
from lensd.daemon.idle_work import IdleWork
from lensd.daemon.inbox import Inbox, Wake
from lensd.daemon.job_queue import JobQueue
from lensd.daemon.running_jobs import Given, RunningJob, RunningJobs
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
from lensd.worker.workers import POLL_SECONDS, Workers

UNKNOWN_SECONDS = 30.0  # for what may be in any root, while one of them does not answer
LONGEST_REST_SECONDS = 60.0
LOOK_SECONDS = 1.0  # for jobs that may begin only now, while others run


@dataclass(frozen=True, slots=True)
class _Task:
    """What the thread does now. `root` is None where it may be in any root."""

    root: str | None
    began: float


class JobThread:
    """Takes jobs from the ledger, in one thread at a time.

    `arrivals` has a message for each job that the intake made since the start. `opens_in()` returns
    in how many seconds jobs may begin, 0 for now. `on_end(entry)`: the job runs no more.
    """

    def __init__(
        self,
        context: JobContext,
        workers: Workers,
        settings: Mapping[str, Settings],
        arrivals: SimpleQueue[Arrival],
        inbox: Inbox,
        opens_in: Callable[[], float] = lambda: 0.0,
        on_end: Callable[[Entry], None] = lambda _: None,
        daily: DailyPass | None = None,
        rebuild_later: RebuildLater | None = None,
        data_hashes: DataHashes | None = None,
    ) -> None:
        self.error: BaseException | None = None
        self.workers = workers
        self._jobs = RunningJobs(context, workers, on_end)
        self._queue = JobQueue(context, settings)
        self._next_look = 0.0  # monotonic
        self._thread = self._new_thread()
        self._turn = threading.Lock()  # for the thread and its task
        self._task: _Task | None = None
        self.idle = threading.Event()
        self._context, self._settings = context, settings
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
        self._requests = FileRequests()
        self.backoffs = Backoffs(context, settings)

    def start(self) -> None:
        self._thread.start()

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def thread(self) -> threading.Thread:
        """The one that takes jobs now."""
        return self._thread

    def leave(self, hanging: frozenset[str]) -> tuple[threading.Thread, frozenset[str]] | None:
        """Let another thread take the next jobs, if a root that hangs holds this one.

        Returns the thread that is left, and the roots where no other thread may work until it has
        ended. It ends after what it does now, a step of one job or a request.
        """
        with self._turn:
            if self._context.stopping.is_set() or not self.is_held(hanging):
                return None
            root = None if self._task is None else self._task.root
            roots = hanging if root is None else frozenset({root})
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
        """Where the thread may be, now or before it ends; all roots if that is unknown.

        From any thread.
        """
        task = self._task
        if task is None or task.root is None:
            return frozenset(self._settings)
        return self._jobs.roots | {task.root}

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

    def submit(self, request: Callable[[], int], root: str | None = None) -> Future[int]:
        """Let this thread run a request, which changes files, when no job runs there.

        From any thread. `root`: the only one that it works in. The result is its exit code, or
        what it raises; LensdError if the thread ends before.
        """
        result = self._requests.add(request, root)
        self.wake()
        if self._thread.ident is not None and not self.is_alive():  # it has ended
            self._requests.dismiss()
        return result

    def finish(self, timeout: float) -> bool:
        """Give up the running job and end; False if that took longer than `timeout` seconds."""
        self._context.stopping.set()
        self._wake.set()
        self._thread.join(timeout)
        return not self.is_alive()

    def run(self) -> None:
        try:
            while not self._context.stopping.is_set() and self._begin():
                self._work()
            while self._jobs and self._end():  # the tasks are given up, as lensd is stopping
                self._continue_jobs(POLL_SECONDS)
        except BaseException as error:  # noqa: BLE001  the main loop must end with it
            self.error = error
        finally:
            if self._is_current():
                self.workers.stop("shutdown")
                self._requests.dismiss()
                self.idle.set()
            self._inbox.put(Wake())
            if self._is_current():
                self._jobs.close()  # after an error; may wait for a folder

    def _work(self) -> None:
        """One round: a request or the begin of a job, then the next steps of those that run."""
        is_time = self._wake.is_set() or time.monotonic() >= self._next_look
        looks = is_time or not self._jobs
        self._wake.clear()  # first: any wake from here on ends the rest
        has_begun = self._run_request() or (looks and self._begin_job())
        if has_begun:
            self._next_look = 0.0  # there may be another one
        elif looks:
            self._next_look = time.monotonic() + LOOK_SECONDS
        if self._jobs:
            if self._end():
                self._continue_jobs(0.0 if has_begun else POLL_SECONDS)
        elif not has_begun:
            self._do_idle_work()
            if self._end():
                self._rest()

    def _run_request(self) -> bool:
        """The first request where no job runs, if one waits."""
        busy = self._jobs.roots
        waiting = self._requests.take(busy, busy - self._context.root_states.hanging)
        if waiting is None:
            return False
        if self._begin(waiting.root):
            waiting.run()
        else:
            self._requests.put_back(waiting)
        return True

    def _do_idle_work(self) -> None:
        if not self._context.patient or self.backoffs.must_archive_wait():
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

    def _begin_job(self) -> bool:
        """Begin one job. False if none may begin now."""
        if self._requests.has_for_any_root or not self._jobs.may_begin():
            return False
        if not self._context.root_states.answers(self._context.archive.root):
            return False
        if self._context.patient and self._opens_in() > 0:
            return False
        waiting, smallest = self.backoffs.roots_waiting(), self._jobs.wants_smallest
        entry = self._queue.choose(waiting, smallest=smallest)
        if entry is None:
            if not self._jobs:
                self.backoffs.end_without_jobs(waiting)
            return False
        self.idle.clear()  # while its row still says `queued`
        settings = self._settings.get(entry.root)
        if settings is None:
            message = "its folder is not watched any more"
            self._context.ledger.jobs.finish(entry.job_id, Outcome.SUPERSEDED, message=message)
            return True
        waited = self._seconds_since_first_seen(entry.job_id)
        steps = compress.process(entry, settings, self._context, waited)
        job = RunningJob(entry, steps, smallest)
        self._jobs.add(job)
        self._step(job, None)
        return True

    def _continue_jobs(self, seconds: float) -> None:
        """The next step of each job whose task has ended; waits for one if there is none."""
        for job, given in self._jobs.wait(seconds):
            self._step(job, given)
        self.workers.end_idle()

    def _step(self, job: RunningJob, given: Given) -> None:
        if not self._begin(job.entry.root):
            self._jobs.hand_over(job, given)
            return
        try:
            goes_on = self._jobs.step(job, given, self._end)
        except StorageError as fault:
            self._jobs.remove(job)
            self.back_off(fault)
        else:
            if goes_on:
                return
            self._jobs.remove(job)
            if self._end():
                self.backoffs.end_of(job.entry.root, job.began)
        self._next_look = 0.0
        self._inbox.put(Wake())

    def has_jobs(self) -> bool:
        """Whether a job may begin that has not begun. From any thread."""
        return self._queue.next() is not None

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
        """Wait for work; end worker processes that were idle for long enough."""
        self.idle.set()
        self._inbox.put(Wake())
        self._wake.wait(self._rest_seconds(self.workers.end_idle()))

    def _rest_seconds(self, worker_ends_in: float) -> float:
        seconds = min(LONGEST_REST_SECONDS, worker_ends_in)
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
