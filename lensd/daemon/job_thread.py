"""The thread that changes files: jobs from the queue, one at a time, and people's errands between.

What a disk does not let it do waits here, with everything else, until the disk is right again.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from queue import Empty, SimpleQueue

from lensd.daemon.disk_backoff import PROBE_SECONDS, DiskBackoff
from lensd.errors import DiskUnavailable, LensdError, StorageError
from lensd.jobs import compress, recover
from lensd.jobs.context import JobContext, Settings
from lensd.jobs.prune import DailyPass
from lensd.logs.events import DaemonDegraded, DaemonRecovered
from lensd.store.entry import Entry

BetweenJobs = Callable[[], int]
LONGEST_REST_SECONDS = 60.0
ANYWHERE = ""


class JobThread(threading.Thread):
    """Takes jobs from the ledger. `waited(job_id, now)` tells how long ago its file was noticed;
    `opens_in()` in how many seconds jobs may be begun, 0 for now.
    """

    def __init__(
        self,
        context: JobContext,
        settings: Mapping[str, Settings],
        waited: Callable[[str, float], float],
        done: Callable[[], None],
        opens_in: Callable[[], float] = lambda: 0.0,
        daily: DailyPass | None = None,
    ) -> None:
        super().__init__(name="jobs", daemon=True)
        self.error: BaseException | None = None
        self.idle = threading.Event()
        self._context = context
        self._settings = settings
        self._waited = waited
        self._done = done
        self._opens_in = opens_in
        self._daily = daily
        self._wake = threading.Event()
        self._between_jobs: SimpleQueue[tuple[BetweenJobs, Future[int]]] = SimpleQueue()
        self._backoff: DiskBackoff | None = None
        self._working_in: str | None = None
        self._idle_since = time.monotonic()

    def wake(self) -> None:
        """There may be a new job."""
        self.idle.clear()
        self._wake.set()

    def is_busy_in(self, root: str) -> bool:
        """Whether files of a watched folder may be changed at this moment."""
        return self._working_in in (root, ANYWHERE)

    def run_between_jobs(self, work: BetweenJobs) -> int:
        """Have something done between two jobs, from another thread; returns or raises its end."""
        end: Future[int] = Future()
        self._between_jobs.put((work, end))
        self.wake()
        if not self.is_alive():
            self._dismiss()
        return end.result()

    def finish(self, timeout: float) -> bool:
        """Give up the running job and end; False if that took longer than `timeout` seconds."""
        self._context.stopping.set()
        self._wake.set()
        self.join(timeout)
        return not self.is_alive()

    def run(self) -> None:
        try:
            while not self._context.stopping.is_set():
                self._wake.clear()  # first: whatever comes from here on ends the rest
                if not (self._run_waiting_request() or self._work()):
                    self._prune()
                    self._rest()
        except BaseException as error:  # noqa: BLE001  the main loop must end with it
            self.error = error
        finally:
            self._context.worker.stop("shutdown")
            self._dismiss()
            self.idle.set()
            self._done()

    def _run_waiting_request(self) -> bool:
        try:
            work, end = self._between_jobs.get_nowait()
        except Empty:
            return False
        self._working_in = ANYWHERE
        try:
            end.set_result(work())
        except BaseException as error:  # noqa: BLE001  it belongs to who asked
            end.set_exception(error)
        self._working_in = None
        return True

    def _prune(self) -> None:
        """The daily pass gives way to whatever else there is to do."""
        if self._daily is None or not self._context.patient or self._backoff is not None:
            return
        try:
            self._daily.run_if_due(lambda: self._context.stopping.is_set() or self._wake.is_set())
        except StorageError as fault:
            self.back_off(fault)

    def _dismiss(self) -> None:
        """Nobody may wait for an errand that will not be run."""
        with contextlib.suppress(Empty):
            while True:
                _, end = self._between_jobs.get_nowait()
                end.set_exception(LensdError("lensd is stopping; try again when it is back"))

    def _work(self) -> bool:
        """One job, if one may be begun. False if there is nothing to do now."""
        if (self._context.patient and self._opens_in() > 0) or not self._may_try():
            return False
        entry = self.next_job()
        while entry is not None and self._context.is_away(entry.root):  # from now on in `away`
            entry = self.next_job()
        if entry is None:
            self._go_on()  # nobody waits for that disk any more; the next job finds out anew
            return False
        self.idle.clear()  # while its row still says `queued`
        self._working_in = entry.root
        self._one(entry)
        self._working_in = None
        self._idle_since = time.monotonic()
        return True

    def next_job(self) -> Entry | None:
        """The job that may be begun next, None if there is none."""
        ledger = self._context.ledger
        if self._context.patient:
            return ledger.next_queued(without=self._context.away())
        # without patience: somebody asked for it now
        return ledger.next_queued(math.inf, without=self._context.away(), heed_pauses=False)

    def _may_try(self) -> bool:
        """Whether no disk holds the work up; what a fault left behind is put in order first."""
        if self._backoff is None:
            return True
        if not self._backoff.is_due(time.monotonic()):
            return False
        try:
            is_well = recover.recover(self._context, tell=False) is None
        except (LensdError, OSError):
            is_well = False
        if not is_well:
            self._backoff.again(time.monotonic())
        return is_well

    def _one(self, entry: Entry) -> None:
        settings = self._settings.get(entry.root)
        if settings is None:
            message = "its folder is not watched any more"
            self._context.ledger.finish(entry.job_id, "superseded", message=message)
            return
        waited = self._waited(entry.job_id, time.monotonic())
        try:
            compress.process(entry, settings, self._context, waited)
        except StorageError as fault:
            self.back_off(fault)
        else:
            self._go_on()
        self._done()

    def back_off(self, fault: StorageError) -> None:
        """Begin no job until a disk is well again. Raises the fault where there is no patience."""
        if not self._context.patient:
            raise fault
        if not isinstance(fault, DiskUnavailable):
            fault = DiskUnavailable(
                "io_error", fault.path or self._context.archive.root, str(fault)
            )
        now = time.monotonic()
        if self._backoff is not None and self._backoff.fault.reason == fault.reason:
            self._backoff.again(now)
            return
        self._backoff = DiskBackoff.begin(fault, now)
        self._tell(DaemonDegraded, fault, f"{fault}. Jobs wait until then")

    def _go_on(self) -> None:
        if self._backoff is not None:
            fault, self._backoff = self._backoff.fault, None
            self._tell(DaemonRecovered, fault, "the jobs go on")

    def _tell(
        self,
        kind: type[DaemonDegraded | DaemonRecovered],
        fault: DiskUnavailable,
        message: str,
    ) -> None:
        self._context.log(kind(watch=None, path=fault.path, reason=fault.reason, message=message))
        held = None if self._backoff is None else f"{fault.path}: {fault}"
        with contextlib.suppress(StorageError):  # a full disk may be the ledger's
            self._context.ledger.set_meta("held", held)

    def _rest(self) -> None:
        """Wait for work; an idle worker process leaves after its time."""
        self.idle.set()
        self._done()
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
        due = self._context.ledger.next_due()
        return seconds if due is None else min(seconds, max(0.0, due - time.time()))
