"""The daemon's side of one worker process: starts it on demand, watches it, ends it.

A worker that dies, hangs or uses too much memory costs its task one attempt and nothing else.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from msgspec import UNSET, UnsetType

from lensd.errors import Reason
from lensd.logs.events import Event, WorkerCrashed, WorkerStarted, WorkerStopped
from lensd.worker import memory
from lensd.worker.process import Process
from lensd.worker.request import (
    AnalyzeResult,
    Answer,
    AnyRequest,
    CompressResult,
    Hello,
    Progress,
)
from lensd.worker.workers import (
    ENDS,
    POLL_SECONDS,
    Abandoned,
    End,
    GiveUp,
    ReportProgress,
    Task,
    WorkerLost,
)

START_SECONDS = 180.0  # a cold import of torch from a slow disk
SILENCE_SECONDS = 60.0  # without a heartbeat
CUDA_IDLE_SECONDS = 30.0

Log = Callable[[Event], None]


@dataclass(slots=True)
class _Running:
    """The task of the process. `began`: when it was sent, or when its new process said hello."""

    task: Task
    is_starting: bool
    began: float = field(default_factory=time.monotonic)
    last_message: float = field(default_factory=time.monotonic)

    @property
    def job_id(self) -> str | None:
        return self.task.request.job_id


@dataclass(slots=True)
class Worker:
    """One worker process at most, with one task at most. Not for use by several threads at once."""

    command: Sequence[str]  # the niceness is added as the last argument
    log: Log
    timeout: float  # seconds for one request
    idle_exit: float  # seconds without a request
    nice: int = 10
    memory_limit: int | None = None  # bytes, of memory.used_bytes
    processes: int | UnsetType = UNSET  # of the pool, for the log
    progress: ReportProgress | None = None  # of requests that name a job_id
    _process: Process | None = None
    _running: _Running | None = None
    _idle_since: float = 0.0

    def request(self, request: AnyRequest, give_up: GiveUp) -> End:
        """Begin a task and wait for its answer. Raises as `poll`."""
        self.begin(Task(request, give_up))
        while (answer := self.poll(POLL_SECONDS)) is None:
            pass
        return answer

    @property
    def running(self) -> bool:
        """Whether there is a process."""
        return self._process is not None

    @property
    def job_id(self) -> str | None:
        """Of the running task."""
        return None if self._running is None else self._running.job_id

    @property
    def is_busy(self) -> bool:
        """Whether a task runs."""
        return self._running is not None

    def fileno(self) -> int:
        """What becomes readable when a running task has news."""
        return self._require_process().fileno()

    def begin(self, task: Task) -> None:
        """Send a request, also to a process that starts. Raises WorkerLost, WorkerUnavailable.

        A process that died while it was idle is not this task's fault.
        """
        if self._process is not None:
            if self._process.send(task.request):
                self._running = _Running(task, is_starting=False)
                return
            self._report_exit(self._process)
            self._kill()
        process = self._process = Process([*self.command, str(self.nice)])
        self._running = _Running(task, is_starting=True)
        if not process.send(task.request):
            lost = self._report_exit(process)
            self._kill()
            raise lost

    def poll(self, seconds: float = 0.0) -> End | None:
        """The answer of the running task, or None if there is none for so long.

        Raises WorkerLost, or Abandoned once the task is to be given up; in both cases the process
        is gone.
        """
        process, running = self._require_process(), self._running
        if running is None:
            raise RuntimeError("the worker has no task")
        try:
            answer = self._read(process, running, seconds)
        except Abandoned:
            self.stop("abandoned")
            raise
        except BaseException:
            self._kill()
            raise
        if answer is not None:
            self._running, self._idle_since = None, time.monotonic()
            if isinstance(answer, CompressResult | AnalyzeResult):
                process.uses_cuda |= answer.measures.device.startswith("cuda")
        return answer

    def idle_ends_in(self) -> float:
        """In how many seconds an idle process is to be ended; infinity without one."""
        if self._process is None or self.is_busy:
            return math.inf
        # a CUDA context costs the user's programs memory
        limit = min(self.idle_exit, CUDA_IDLE_SECONDS if self._process.uses_cuda else math.inf)
        return max(0.0, self._idle_since + limit - time.monotonic())

    def stop(self, reason: str) -> None:
        """End the process, if there is one."""
        if self._process is not None:
            pid = self._process.pid
            self._kill()
            self.log(WorkerStopped(pid=pid, reason=reason))

    def _require_process(self) -> Process:
        if self._process is None:
            raise RuntimeError("the worker has no process")
        return self._process

    def _read(self, process: Process, running: _Running, seconds: float) -> End | None:
        """All messages that have come, until the answer. Only then a limit of time counts."""
        message = self._receive(process, running, seconds)
        self._limit_memory(process)
        while message is not None:
            running.last_message = time.monotonic()
            if isinstance(message, ENDS):
                return message
            self._note(message, running)
            message = self._receive(process, running, 0.0)
        self._limit_time(process, running)
        return None

    def _receive(self, process: Process, running: _Running, seconds: float) -> Answer | None:
        if running.task.give_up():
            raise Abandoned
        try:
            return process.receive(seconds)
        except EOFError:
            raise self._report_exit(process) from None

    def _note(self, message: Answer, running: _Running) -> None:
        if isinstance(message, Hello):
            seconds = round(time.monotonic() - running.began, 3)
            running.is_starting, running.began = False, time.monotonic()
            self.log(
                WorkerStarted(
                    pid=message.pid,
                    device=message.device,
                    torch=message.torch,
                    kernels=message.kernels,
                    seconds=seconds,
                    processes=self.processes,
                )
            )
        elif isinstance(message, Progress) and self.progress is not None and running.job_id:
            self.progress(running.job_id, message.stage, message.done, message.of)

    def _limit_time(self, process: Process, running: _Running) -> None:
        """Raises WorkerLost for a process that takes too long, or sends no heartbeats."""
        now, limit = time.monotonic(), START_SECONDS if running.is_starting else self.timeout
        if now - running.began > limit:
            raise self._report_hang(process, f"did not finish within {limit:g} s")
        if now - running.last_message > SILENCE_SECONDS and not running.is_starting:
            raise self._report_hang(process, f"sent nothing for {SILENCE_SECONDS:g} s")

    def _report_exit(self, process: Process) -> WorkerLost:
        code = process.exit_code()
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        message = f"the worker process ended ({how})"
        self._report_crash(process, code, message)
        return WorkerLost(Reason.WORKER_CRASHED, message)

    def _report_hang(self, process: Process, what: str) -> WorkerLost:
        message = f"the worker process {what}"
        self._report_crash(process, None, message)
        return WorkerLost(Reason.WORKER_TIMEOUT, message)

    def _report_crash(self, process: Process, code: int | None, message: str) -> None:
        self.log(WorkerCrashed(pid=process.pid, exit=code, job_id=self.job_id, message=message))

    def _limit_memory(self, process: Process) -> None:
        """Raises WorkerLost for a process above the limit (docs/decisions/0015-limits.md)."""
        if self.memory_limit is None:
            return
        used = memory.used_bytes(process.pid)
        if used <= self.memory_limit:
            return
        message = (
            f"the worker process used {used >> 20} MiB, more than worker.memory_limit "
            f"({self.memory_limit >> 20} MiB; raise it if the machine has room)"
        )
        self._report_crash(process, None, message)
        raise WorkerLost(Reason.WORKER_MEMORY, message)

    def _kill(self) -> None:
        self._running = None
        if self._process is not None:
            process, self._process = self._process, None
            process.kill()
