"""The job thread, the only one that changes files: one job at a time, and requests between jobs.

When a disk is full, read-only or away, the jobs that need it wait until the disk is well again.
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

from lensd.daemon.disk_backoff import PROBE_SECONDS, DiskBackoff, Disks
from lensd.daemon.inbox import Inbox, Wake
from lensd.errors import DiskUnavailable, LensdError, StorageError
from lensd.jobs import compress, recover
from lensd.jobs.context import JobContext, Settings
from lensd.jobs.daily_prune import DailyPass
from lensd.jobs.rebuild import RebuildLater
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
        rebuild_later: RebuildLater | None = None,
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
        self._rebuild_later = rebuild_later
        self._wake = threading.Event()
        self._requests: SimpleQueue[tuple[FileRequest, Future[int]]] = SimpleQueue()
        self._backoffs: list[DiskBackoff] = []
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
                    self._do_idle_work()
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

    def _do_idle_work(self) -> None:
        """The rest of a rebuild, then the daily pass; both end when there is something else."""
        if not self._context.patient:
            return
        archiving, now = self._disks().archiving, time.monotonic()
        if any(b.roots >= archiving and not b.is_due(now) for b in self._backoffs):
            return
        try:
            if self._rebuild_later is not None:
                self._rebuild_later.run_some(self._has_other_work)
            if self._daily is not None:
                self._daily.run_if_due(self._has_other_work)
        except StorageError as fault:
            self.back_off(fault, of_pass=True)
        else:
            self._end_backoffs([b for b in self._backoffs if b.of_pass])

    def _has_other_work(self) -> bool:
        return self._context.stopping.is_set() or self._wake.is_set()

    def _dismiss_requests(self) -> None:
        """Answer the requests that this thread cannot run any more."""
        with contextlib.suppress(Empty):
            while True:
                _, result = self._requests.get_nowait()
                result.set_exception(LensdError("lensd is stopping; try again when it is back"))

    def _run_job(self) -> bool:
        """One job, if one may begin. False if there is nothing to do now."""
        if self._context.patient and self._opens_in() > 0:
            return False
        states = self._context.root_states
        waiting = self._roots_waiting()
        entry = self.next_job(waiting)
        while entry is not None and states.must_wait(entry.root):  # from now on it is closed
            entry = self.next_job(waiting)
        if entry is None:  # no job needs these disks; the next job finds out again
            self._end_backoffs([b for b in self._backoffs if not (b.of_pass or b.roots <= waiting)])
            return False
        self.idle.clear()  # while its row still says `queued`
        self._process(entry)
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

    def _roots_waiting(self) -> frozenset[str]:
        """The roots that need a disk which is not to be tried now."""
        return frozenset().union(*(b.roots for b in self._backoffs if not self._may_try(b)))

    def _may_try(self, backoff: DiskBackoff) -> bool:
        """Whether a job may try the disk; before it recovery puts right what the fault left."""
        if not backoff.is_due(time.monotonic()):
            return False
        try:
            is_well = recover.recover(self._context, report=False, within=backoff.roots) is None
        except (LensdError, OSError):
            is_well = False
        if not is_well:
            backoff.extend(time.monotonic())
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
            found = [b for b in self._backoffs if entry.root in b.roots and not b.of_pass]
            self._end_backoffs(found)

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

        `of_pass`: the daily pass met the fault. Raises the fault if the context is impatient.
        """
        if not self._context.patient:
            raise fault
        if not isinstance(fault, DiskUnavailable):
            fault = DiskUnavailable(
                "io_error", fault.path or self._context.archive.root, str(fault)
            )
        now = time.monotonic()
        found = DiskBackoff.begin(fault, self._disks(), now, of_pass=of_pass)
        for known in self._backoffs:
            if (known.fault.reason, known.roots) == (fault.reason, found.roots):
                known.of_pass |= of_pass
                known.extend(now)
                return
        self._backoffs.append(found)
        self._report(DaemonDegraded, fault, f"{fault}. The jobs that need it wait until then")

    def _disks(self) -> Disks:
        context = self._context
        return Disks(
            context.ledger.folder,
            context.archive.root,
            {root: context.root_states.device(root) for root in self._settings},
            frozenset(r for r, found in self._settings.items() if found.mode != "analyze"),
        )

    def _end_backoffs(self, ended: list[DiskBackoff]) -> None:
        for backoff in ended:
            self._backoffs.remove(backoff)
            self._report(DaemonRecovered, backoff.fault, "its jobs continue")

    def _report(
        self, kind: type[DaemonDegraded | DaemonRecovered], fault: DiskUnavailable, message: str
    ) -> None:
        self._context.log(kind(watch=None, path=fault.path, reason=fault.reason, message=message))
        note = self._context.ledger.state.disk_backoff
        with contextlib.suppress(StorageError):  # a full disk may be the ledger's
            if self._backoffs:
                note.set("; ".join(f"{b.fault.path}: {b.fault}" for b in self._backoffs))
            else:
                note.clear()

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
        if self._backoffs:
            seconds = min(seconds, PROBE_SECONDS)
        if not self._context.patient:
            return seconds
        if (opens_in := self._opens_in()) > 0:
            seconds = min(seconds, opens_in)
        due = self._context.ledger.jobs.next_due()
        return seconds if due is None else min(seconds, max(0.0, due - time.time()))
