"""The daemon's side of a cluster: tasks to the client process, and their ends.

With `local` the tasks that the cluster cannot take now go to worker processes of this machine.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from lensd.errors import ClusterUnavailable, WorkerUnavailable
from lensd.logs.events import WorkerCrashed, WorkerStarted, WorkerStopped
from lensd.store.json_lines import encode
from lensd.worker import isolated
from lensd.worker.cluster.messages import (
    Available,
    Cancel,
    ClusterSettings,
    FromClient,
    Happened,
    Lost,
    Submit,
    Unavailable,
)
from lensd.worker.process import Process
from lensd.worker.request import Answer, Hello
from lensd.worker.supervisor import SILENCE_SECONDS, START_SECONDS, Log
from lensd.worker.workers import (
    ENDS,
    POLL_SECONDS,
    STUCK_SECONDS,
    Abandoned,
    End,
    Ended,
    Task,
    WorkerLost,
    Workers,
)

MOST_TASKS = 64
# For each thread of the cluster: one file is computed while another one travels.
TASKS_PER_THREAD = 2


@dataclass(slots=True)
class _Client:
    """A running client process."""

    process: Process
    began: float
    last_message: float
    is_starting: bool = True


class ClusterWorkers:
    """One client process for all tasks (lensd.worker.workers describes the methods)."""

    def __init__(
        self,
        settings: ClusterSettings,
        log: Log,
        idle_exit: float,
        local: Workers | None = None,
    ) -> None:
        self._settings = settings
        self._log = log
        self._idle_exit = idle_exit
        self._local = local
        self._client: _Client | None = None
        self._tasks: dict[str, Task] = {}  # in the cluster, by number
        self._ended: list[Ended] = []  # found outside of `wait`, which returns them
        self._count = 0
        self._threads: int | None = None  # of the cluster; None: not known as yet
        self._idle_since = time.monotonic()
        self._wait_began: float | None = None

    @property
    def capacity(self) -> int:
        if not self._threads:
            return 1 if self._local is None else self._local.capacity
        return min(MOST_TASKS, TASKS_PER_THREAD * self._threads)

    def start(self, task: Task) -> None:
        if self._local is not None and self._threads == 0:
            self._local.start(task)
            return
        client = self._client or self._start_client()
        self._count += 1
        number = str(self._count)
        self._tasks[number] = task
        # to a process that has ended: `wait` finds that out, and ends all tasks
        client.process.send(Submit(number=number, request=task.request))

    def wait(self, seconds: float) -> list[Ended]:
        self._wait_began = time.monotonic()
        try:
            ended, self._ended = self._ended, []
            may_wait = self._tasks and not ended
            ended += self._collect(min(seconds, POLL_SECONDS) if may_wait else 0.0)
            if self._local is not None:
                ended += self._local.wait(0.0 if self._tasks or ended else seconds)
            return ended
        finally:
            self._wait_began = None

    def end_idle(self) -> float:
        due_in = math.inf if self._local is None else self._local.end_idle()
        if self._client is None or self._tasks:
            return due_in
        self._ended += self._collect(0.0)  # the pipe must not become full
        own = self._idle_since + self._idle_exit - time.monotonic()
        if own <= 0:
            self._stop_client("idle")
            return due_in
        return min(own, due_in)

    def stop(self, reason: str) -> None:
        self._tasks.clear()
        self._ended.clear()
        self._stop_client(reason)
        if self._local is not None:
            self._local.stop(reason)

    def is_fresh(self, now: float) -> bool:
        began = self._wait_began
        is_fresh = began is None or now - began < STUCK_SECONDS
        return is_fresh and (self._local is None or self._local.is_fresh(now))

    def is_available(self) -> bool:
        """Whether the cluster can take tasks. Starts the client process, which finds that out."""
        if self._client is None:
            with suppress(WorkerUnavailable):
                self._start_client()
        self._ended += self._collect(0.0)
        return bool(self._threads)

    def _start_client(self) -> _Client:
        command = [*isolated.command("lensd.worker.cluster"), encode(self._settings).decode()]
        self._threads = None
        self._idle_since = now = time.monotonic()
        self._client = _Client(Process(command, FromClient), now, now)
        return self._client

    def _stop_client(self, reason: str) -> None:
        if self._client is not None:
            client, self._client, self._threads = self._client, None, None
            client.process.kill()
            self._log(WorkerStopped(pid=client.process.pid, reason=reason))

    def _collect(self, seconds: float) -> Iterator[Ended]:
        """The ends of tasks in the cluster, and those that are given up."""
        if self._client is None:
            return
        for number, task in list(self._tasks.items()):
            if task.give_up():
                self._client.process.send(Cancel(number=number))
                yield self._end(number, Abandoned())
        try:
            yield from self._read(self._client, seconds)
        except EOFError:
            code = self._client.process.exit_code()
            yield from self._report_loss(self._client, code, f"ended (exit code {code})")

    def _read(self, client: _Client, seconds: float) -> Iterator[Ended]:
        message = client.process.receive(seconds)
        while message is not None:
            client.last_message = time.monotonic()
            yield from self._take(client, message)
            message = client.process.receive(0.0)
        limit = START_SECONDS if client.is_starting else SILENCE_SECONDS
        if time.monotonic() - client.last_message > limit:
            silence = (
                f"sent nothing for {limit:g} s; if the scheduler {self._settings.address} hangs, "
                "restart it"
            )
            yield from self._report_loss(client, None, silence)

    def _take(self, client: _Client, message: Answer) -> Iterator[Ended]:
        match message:
            case Hello():
                client.is_starting = False
                self._log_start(client, message)
            case Available():
                self._threads = message.threads
            case Happened():
                for event in message.events:
                    self._log(event)
            case _ if message.job_id in self._tasks:
                yield from self._take_end(message.job_id, message)

    def _take_end(self, number: str, message: Answer) -> Iterator[Ended]:
        match message:
            case Unavailable():
                yield from self._take_back(number, message.message)
            case Lost():
                yield self._end(number, WorkerLost(message.reason, message.message))
            case _ if isinstance(message, ENDS):
                yield self._end(number, message)

    def _take_back(self, number: str, why: str) -> Iterator[Ended]:
        """The cluster cannot take the task, which is not the fault of its file."""
        self._threads = 0
        if self._local is not None:
            try:
                self._local.start(self._tasks[number])
            except Exception as error:  # noqa: BLE001  the job decides what follows from it
                yield self._end(number, error)
            else:
                del self._tasks[number]
            return
        fault = ClusterUnavailable(self._settings.address, why, self.is_available)
        yield self._end(number, fault)

    def _end(self, number: str, result: End | Exception) -> Ended:
        task = self._tasks.pop(number)
        self._idle_since = time.monotonic()
        return Ended(task.request.job_id or "", result)

    def _log_start(self, client: _Client, hello: Hello) -> None:
        self._log(
            WorkerStarted(
                pid=hello.pid,
                device=hello.device,
                torch=hello.torch,
                seconds=round(time.monotonic() - client.began, 3),
                host=self._settings.address,
            )
        )

    def _report_loss(self, client: _Client, code: int | None, what: str) -> Iterator[Ended]:
        """All tasks of the client process come back; another one starts with the next."""
        message = f"the client process of the cluster {what}"
        self._log(WorkerCrashed(pid=client.process.pid, exit=code, job_id=None, message=message))
        client.process.kill()
        self._client = None
        for number in list(self._tasks):
            yield from self._take_back(number, message)
        self._threads = None  # as before the first task, which starts a client process
