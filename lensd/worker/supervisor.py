"""The daemon's side of the worker: starts it on demand, watches it, ends it when it is idle.

A worker that dies, hangs or uses too much memory costs its job one attempt and nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar, overload

from lensd.errors import Reason
from lensd.logs.events import Event, WorkerCrashed, WorkerStarted, WorkerStopped
from lensd.worker import memory
from lensd.worker.process import Process
from lensd.worker.request import (
    AnalyzeRequest,
    AnalyzeResult,
    Answer,
    AnyRequest,
    Bug,
    CompressRequest,
    CompressResult,
    Hello,
    Progress,
    Refused,
)

START_SECONDS = 180.0  # a cold import of torch from a slow disk
SILENCE_SECONDS = 60.0  # without a heartbeat
STUCK_SECONDS = 60.0  # between two looks at the pipe: after more, the waiting thread itself hangs
CUDA_IDLE_SECONDS = 30.0

Log = Callable[[Event], None]
ReportProgress = Callable[[str, str, int, int], None]  # job_id, stage, done, of how many
GiveUp = Callable[[], bool]
Wanted = TypeVar("Wanted", bound=Answer)
End = CompressResult | AnalyzeResult | Refused | Bug
_ENDS: tuple[type[End], ...] = (CompressResult, AnalyzeResult, Refused, Bug)


class WorkerLost(Exception):
    """The worker ended or had to be ended: worker_crashed, worker_timeout or worker_memory."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Abandoned(Exception):
    """The running job was given up: the daemon is stopping, or the file changed."""


@dataclass(slots=True)
class Worker:
    """One worker process at most. Not for use by several threads at once."""

    command: Sequence[str]  # the niceness is added as the last argument
    log: Log
    timeout: float  # seconds for one request
    idle_exit: float  # seconds without a request
    nice: int = 10
    memory_limit: int | None = None  # bytes, of memory.used_bytes
    progress: ReportProgress | None = None  # of requests that name a job_id
    _process: Process | None = None
    _last_look: float | None = None  # monotonic, at the pipe of a process that is waited for

    @overload
    def request(
        self, request: CompressRequest, give_up: GiveUp
    ) -> CompressResult | Refused | Bug: ...
    @overload
    def request(
        self, request: AnalyzeRequest, give_up: GiveUp
    ) -> AnalyzeResult | Refused | Bug: ...

    def request(self, request: AnyRequest, give_up: GiveUp) -> End:
        """Send one request and wait for its answer.

        Raises WorkerLost, or Abandoned once `give_up()` is true; in both cases the process is gone.
        """
        job_id = request.job_id
        try:
            process = self._send(request, give_up)
            answer = self._wait(process, _ENDS, self.timeout, give_up, job_id)
        except Abandoned:
            self.stop("abandoned")
            raise
        except BaseException:
            self._kill()
            raise
        finally:
            self._last_look = None
        if isinstance(answer, CompressResult | AnalyzeResult):
            process.uses_cuda |= answer.measures.device.startswith("cuda")
        return answer

    @property
    def idle_limit(self) -> float:
        """Seconds of idleness allowed; a CUDA context costs the user's programs memory."""
        uses_cuda = self._process is not None and self._process.uses_cuda
        return min(self.idle_exit, CUDA_IDLE_SECONDS) if uses_cuda else self.idle_exit

    def is_fresh(self, now: float) -> bool:
        """Whether the thread that waits for an answer has looked at the pipe lately.

        As long as it does, it ends a silent process in time. From any thread.
        """
        last = self._last_look
        return last is None or now - last < STUCK_SECONDS

    @property
    def running(self) -> bool:
        return self._process is not None

    def stop(self, reason: str) -> None:
        """End the process, if there is one."""
        if self._process is not None:
            pid = self._process.pid
            self._kill()
            self.log(WorkerStopped(pid=pid, reason=reason))

    def _send(self, request: AnyRequest, give_up: GiveUp) -> Process:
        """The process that has the request. One that died while idle is not this job's fault."""
        if self._process is not None:
            if self._process.send(request):
                return self._process
            self._report_exit(self._process, None)
            self._kill()
        process = self._start(give_up, request.job_id)
        if not process.send(request):
            raise self._report_exit(process, request.job_id)
        return process

    def _start(self, give_up: GiveUp, job_id: str | None) -> Process:
        began = time.monotonic()
        process = self._process = Process([*self.command, str(self.nice)])
        hello = self._wait(process, (Hello,), START_SECONDS, give_up, job_id)
        self.log(
            WorkerStarted(
                pid=hello.pid,
                device=hello.device,
                torch=hello.torch,
                kernels=hello.kernels,
                seconds=round(time.monotonic() - began, 3),
            )
        )
        return process

    def _wait(
        self,
        process: Process,
        kinds: tuple[type[Wanted], ...],
        timeout: float,
        give_up: GiveUp,
        job_id: str | None,
    ) -> Wanted:
        """The next message of these kinds; heartbeats before it show that the process lives."""
        began = last_message = time.monotonic()
        while not give_up():
            try:
                answer = process.receive()
            except EOFError:
                raise self._report_exit(process, job_id) from None
            self._limit_memory(process, job_id)
            now = self._last_look = time.monotonic()
            if isinstance(answer, kinds):
                return answer
            if answer is not None:
                last_message = now
            if isinstance(answer, Progress) and self.progress is not None and job_id is not None:
                self.progress(job_id, answer.stage, answer.done, answer.of)
            if now - began > timeout:
                raise self._report_hang(process, job_id, f"did not finish within {timeout:g} s")
            if now - last_message > SILENCE_SECONDS and Hello not in kinds:
                silence = f"sent nothing for {SILENCE_SECONDS:g} s"
                raise self._report_hang(process, job_id, silence)
        raise Abandoned

    def _report_exit(self, process: Process, job_id: str | None) -> WorkerLost:
        code = process.exit_code()
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        message = f"the worker process ended ({how})"
        self._report_crash(process, code, job_id, message)
        return WorkerLost(Reason.WORKER_CRASHED, message)

    def _report_hang(self, process: Process, job_id: str | None, what: str) -> WorkerLost:
        message = f"the worker process {what}"
        self._report_crash(process, None, job_id, message)
        return WorkerLost(Reason.WORKER_TIMEOUT, message)

    def _report_crash(
        self, process: Process, code: int | None, job_id: str | None, message: str
    ) -> None:
        self.log(WorkerCrashed(pid=process.pid, exit=code, job_id=job_id, message=message))

    def _limit_memory(self, process: Process, job_id: str | None) -> None:
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
        self._report_crash(process, None, job_id, message)
        raise WorkerLost(Reason.WORKER_MEMORY, message)

    def _kill(self) -> None:
        if self._process is not None:
            process, self._process = self._process, None
            process.kill()
