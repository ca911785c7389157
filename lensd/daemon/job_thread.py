"""The job thread, the only one that changes files: one job at a time, and requests between jobs.

When a disk is full, read-only or away, all jobs wait here until the disk is well again.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import TypeAlias

from lensd.daemon.disk_backoff import PROBE_SECONDS, DiskBackoff
from lensd.daemon.inbox import Inbox, Wake
from lensd.errors import DiskUnavailable, LensdError, StorageError
from lensd.jobs import compress, recover
from lensd.jobs.context import JobContext, Settings
from lensd.jobs.daily_prune import DailyPass
from lensd.logs.events import DaemonDegraded, DaemonRecovered
from lensd.store.ledger import Outcome
from lensd.store.ledger.entry import Entry
from lensd.watcher.intake_recorder import Arrival

FileRequest: TypeAlias = Callable[[], int]
LONGEST_REST_SECONDS = 60.0


class JobThread(threading.Thread):
    """Takes jobs from the ledger.

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
    ) -> None:
        super().__init__(name="jobs", daemon=True)
        self.error: BaseException | None = None
        self.idle = threading.Event()
        self._context = context
        self._settings = settings
        self._arrivals = arrivals
        self._first_seen: dict[str, float] = {}  # by job
        self._inbox = inbox
        self._opens_in = opens_in
        self._daily = daily
        self._wake = threading.Event()
        self._requests: SimpleQueue[tuple[FileRequest, Future[int]]] = SimpleQueue()
        self._backoff: DiskBackoff | None = None
        self._idle_since = time.monotonic()

    def wake(self) -> None:
        """There may be a new job."""
        self.idle.clear()
        self._wake.set()

    def submit(self, request: FileRequest) -> Future[int]:
        """Let this thread run a request, which changes files, between two jobs. From any thread.

        The result is its exit code, or what it raises; LensdError if the thread ends before.
        """
        result: Future[int] = Future()
        self._requests.put((request, result))
        self.wake()
        if not self.is_alive():
            self._dismiss_requests()
        return result

    def finish(self, timeout: float) -> bool:
        """Give up the running job and end; False if that took longer than `timeout` seconds."""
        self._context.stopping.set()
        self._wake.set()
        self.join(timeout)
        return not self.is_alive()

    def run(self) -> None:
        try:
            while not self._context.stopping.is_set():
                self._wake.clear()  # first: any wake from here on ends the rest
                if not (self._run_request() or self._run_job()):
                    self._prune()
                    self._rest()
        except BaseException as error:  # noqa: BLE001  the main loop must end with it
            self.error = error
        finally:
            self._context.worker.stop("shutdown")
            self._dismiss_requests()
            self.idle.set()
            self._inbox.put(Wake())

    def _run_request(self) -> bool:
        """One request, if one waits."""
        try:
            request, result = self._requests.get_nowait()
        except Empty:
            return False
        try:
            result.set_result(request())
        except BaseException as error:  # noqa: BLE001  it belongs to the thread that waits
            result.set_exception(error)
        return True

    def _prune(self) -> None:
        """The daily pass, which ends when there is something else to do."""
        if self._daily is None or not self._context.patient or self._backoff is not None:
            return
        try:
            self._daily.run_if_due(lambda: self._context.stopping.is_set() or self._wake.is_set())
        except StorageError as fault:
            self.back_off(fault)

    def _dismiss_requests(self) -> None:
        """Answer the requests that this thread cannot run any more."""
        with contextlib.suppress(Empty):
            while True:
                _, result = self._requests.get_nowait()
                result.set_exception(LensdError("lensd is stopping; try again when it is back"))

    def _run_job(self) -> bool:
        """One job, if one may begin. False if there is nothing to do now."""
        if (self._context.patient and self._opens_in() > 0) or not self._may_try():
            return False
        states = self._context.root_states
        entry = self.next_job()
        while entry is not None and states.must_wait(entry.root):  # from now on it is closed
            entry = self.next_job()
        if entry is None:
            self._end_backoff()  # no job waits for that disk; the next job finds out again
            return False
        self.idle.clear()  # while its row still says `queued`
        self._process(entry)
        self._idle_since = time.monotonic()
        self._inbox.put(Wake())
        return True

    def next_job(self) -> Entry | None:
        """The job that may begin next, None if there is none. From any thread."""
        context, jobs = self._context, self._context.ledger.jobs
        closed, given_up = context.root_states.closed, tuple(context.given_up)
        if context.patient:
            return jobs.next_queued(without=closed, but=given_up)
        # `once` treats the files now, whatever is paused or postponed
        return jobs.next_queued(math.inf, without=closed, but=given_up, heed_pauses=False)

    def _may_try(self) -> bool:
        """Whether no back-off forbids a try; before a try recovery puts right what a fault left."""
        if self._backoff is None:
            return True
        if not self._backoff.is_due(time.monotonic()):
            return False
        try:
            is_well = recover.recover(self._context, report=False) is None
        except (LensdError, OSError):
            is_well = False
        if not is_well:
            self._backoff.extend(time.monotonic())
        return is_well

    def _process(self, entry: Entry) -> None:
        waited = self._seconds_since_first_seen(entry.job_id)
        settings = self._settings.get(entry.root)
        if settings is None:
            message = "its folder is not watched any more"
            self._context.ledger.jobs.finish(entry.job_id, Outcome.SUPERSEDED, message=message)
            return
        try:
            compress.process(entry, settings, self._context, waited)
        except StorageError as fault:
            self.back_off(fault)
        else:
            self._end_backoff()

    def _seconds_since_first_seen(self, job_id: str) -> float:
        """0 for a job of an earlier run."""
        with contextlib.suppress(Empty):
            while True:
                arrival = self._arrivals.get_nowait()
                self._first_seen[arrival.job_id] = arrival.first_seen
        now = time.monotonic()
        return max(0.0, now - self._first_seen.pop(job_id, now))

    def back_off(self, fault: StorageError) -> None:
        """Begin no job until a disk is well again. Raises the fault if the context is impatient."""
        if not self._context.patient:
            raise fault
        if not isinstance(fault, DiskUnavailable):
            fault = DiskUnavailable(
                "io_error", fault.path or self._context.archive.root, str(fault)
            )
        now = time.monotonic()
        if self._backoff is not None and self._backoff.fault.reason == fault.reason:
            self._backoff.extend(now)
            return
        self._backoff = DiskBackoff.begin(fault, now)
        self._report(DaemonDegraded, fault, f"{fault}. Jobs wait until then")

    def _end_backoff(self) -> None:
        if self._backoff is not None:
            fault, self._backoff = self._backoff.fault, None
            self._report(DaemonRecovered, fault, "the jobs go on")

    def _report(
        self, kind: type[DaemonDegraded | DaemonRecovered], fault: DiskUnavailable, message: str
    ) -> None:
        self._context.log(kind(watch=None, path=fault.path, reason=fault.reason, message=message))
        backoff = self._context.ledger.state.disk_backoff
        with contextlib.suppress(StorageError):  # a full disk may be the ledger's
            if self._backoff is None:
                backoff.clear()
            else:
                backoff.set(f"{fault.path}: {fault}")

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
        if self._backoff is not None:
            seconds = min(seconds, PROBE_SECONDS)
        if not self._context.patient:
            return seconds
        if (opens_in := self._opens_in()) > 0:
            seconds = min(seconds, opens_in)
        due = self._context.ledger.jobs.next_due()
        return seconds if due is None else min(seconds, max(0.0, due - time.time()))
