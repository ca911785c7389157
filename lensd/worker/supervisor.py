"""The daemon's side: starts the worker on demand, watches it, ends it when idle.

A worker that dies, hangs or is starved costs its job one attempt and nothing else.
"""

from __future__ import annotations

import os
import selectors
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO, cast

from lensd.worker import isolated, memory
from lensd.worker.protocol import Message, decode, encode

START_SECONDS = 180.0  # a cold import of torch from a slow disk
SILENCE_SECONDS = 60.0  # without a heartbeat
STUCK_SECONDS = 60.0  # between two looks at the pipe: whoever looks hangs itself
POLL_SECONDS = 0.2
CUDA_IDLE_SECONDS = 30.0
# A core for each thread of the worker's own. And glibc's malloc keeps what is freed: it would hand
# back and fetch anew every block of some MB, whose pages the kernel fills with zeros each time.
# All threads share one heap, since malloc_trim does not reach the end of any other.
ENVIRONMENT = {
    **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    **dict.fromkeys(("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"), str(64 * 2**20)),
    "MALLOC_ARENA_MAX": "1",
}

Tell = Callable[..., None]
Progress = Callable[[str, str, int, int], None]  # job_id, stage, done, of how many


class WorkerLost(Exception):
    """The worker ended or had to be ended: worker_crashed, worker_timeout or worker_memory."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Abandoned(Exception):
    """The daemon is stopping, or the file changed: the running job was given up."""


class _Process:
    """A running worker process and the lines it says."""

    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=isolated.FOLDER,
            env=isolated.environment() | ENVIRONMENT,
            bufsize=0,
        )
        self._stdin = cast("IO[bytes]", self._process.stdin)
        self._stdout = cast("IO[bytes]", self._process.stdout)
        self._buffer = b""
        self.pid = self._process.pid
        self.cuda = False

    def send(self, message: Message) -> bool:
        """False if the process is not there to hear it."""
        if self._process.poll() is not None or _is_ending(self.pid):
            return False
        try:
            self._stdin.write(encode(message))
        except BrokenPipeError:
            return False
        return True

    def line(self) -> bytes | None:
        """The next line, or None after a short wait. Raises EOFError when there will be none."""
        if b"\n" not in self._buffer:
            with selectors.DefaultSelector() as selector:
                selector.register(self._stdout, selectors.EVENT_READ)
                if not selector.select(POLL_SECONDS):
                    return None
            chunk = os.read(self._stdout.fileno(), 65536)
            if not chunk:
                raise EOFError
            self._buffer += chunk
        line, newline, rest = self._buffer.partition(b"\n")
        if not newline:
            return None
        self._buffer = rest
        return line

    def exit_code(self) -> int | None:
        """Of a process that has closed its pipe; None if it does not even end."""
        try:
            return self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._stdin.close()
        self._stdout.close()


def _is_ending(pid: int) -> bool:
    """Whether a child was killed whose other threads have not all ended yet: it has no exit code
    before they have, and its pipes are open.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] in (b"Z", b"X")
    except (FileNotFoundError, ProcessLookupError):
        return True


@dataclass(slots=True)
class Worker:
    """One worker process at most. Not for use by several threads at once."""

    command: Sequence[str]  # its one argument more is the niceness
    tell: Tell  # tell(event, **fields): where worker.* events go
    timeout: float  # seconds for one request
    idle_exit: float  # seconds without a request
    nice: int = 10
    memory_limit: int | None = None  # bytes, of memory.held
    progress: Progress | None = None  # of requests that name a job_id
    _process: _Process | None = None
    _looked: float | None = None  # monotonic, at the pipe of a process that is waited for

    def request(self, message: Message, give_up: Callable[[], bool]) -> Message:
        """Send one request and wait for its answer (`result`, `refused` or `bug`).

        Raises WorkerLost, or Abandoned once `give_up()` says so; in both cases the process is gone.
        """
        job_id = message.get("job_id")
        try:
            process = self._sent(message, give_up, job_id)
            kinds = {"result", "refused", "bug"}
            answer = self._wait(process, kinds, self.timeout, give_up, job_id)
        except Abandoned:
            self.stop("abandoned")
            raise
        except BaseException:
            self._kill()
            raise
        finally:
            self._looked = None
        process.cuda = process.cuda or str(answer.get("device", "")).startswith("cuda")
        return answer

    @property
    def idle_limit(self) -> float:
        """Seconds of idleness allowed; a CUDA context costs the user's programs memory."""
        cuda = self._process is not None and self._process.cuda
        return min(self.idle_exit, CUDA_IDLE_SECONDS) if cuda else self.idle_exit

    def is_fresh(self, now: float) -> bool:
        """Whether a request under way is watched over: a silent process is then ended in time.

        From any thread.
        """
        looked = self._looked
        return looked is None or now - looked < STUCK_SECONDS

    @property
    def running(self) -> bool:
        return self._process is not None

    def stop(self, reason: str) -> None:
        """End the process, if there is one."""
        if self._process is not None:
            pid = self._process.pid
            self._kill()
            self.tell("worker.stopped", pid=pid, reason=reason)

    def _sent(self, message: Message, give_up: Callable[[], bool], job_id: str | None) -> _Process:
        """The process that has heard the request. One that died idle is no fault of this job's."""
        if self._process is not None:
            if self._process.send(message):
                return self._process
            self._crashed(self._process, None)
            self._kill()
        process = self._start(give_up, job_id)
        if not process.send(message):
            raise self._crashed(process, job_id)
        return process

    def _start(self, give_up: Callable[[], bool], job_id: str | None) -> _Process:
        began = time.monotonic()
        process = self._process = _Process([*self.command, str(self.nice)])
        hello = self._wait(process, {"hello"}, START_SECONDS, give_up, job_id)
        self.tell(
            "worker.started",
            pid=hello["pid"],
            device=hello["device"],
            torch=hello["torch"],
            seconds=round(time.monotonic() - began, 3),
        )
        return process

    def _wait(
        self,
        process: _Process,
        kinds: set[str],
        timeout: float,
        give_up: Callable[[], bool],
        job_id: str | None,
    ) -> Message:
        """The next message of these kinds; heartbeats in between show that the process lives."""
        began = heard = time.monotonic()
        while not give_up():
            try:
                line = process.line()
            except EOFError:
                raise self._crashed(process, job_id) from None
            self._limit_memory(process, job_id)
            now = self._looked = time.monotonic()
            if line is not None:
                heard = now
                message = decode(line)
                if message["type"] in kinds:
                    return message
                self._pass_on(message, job_id)
            if now - began > timeout:
                raise self._stuck(process, job_id, f"did not finish within {timeout:g} s")
            if now - heard > SILENCE_SECONDS and "hello" not in kinds:
                raise self._stuck(process, job_id, f"was silent for {SILENCE_SECONDS:g} s")
        raise Abandoned

    def _pass_on(self, message: Message, job_id: str | None) -> None:
        if message["type"] == "progress" and self.progress is not None and job_id is not None:
            self.progress(job_id, message["stage"], message["done"], message["of"])

    def _crashed(self, process: _Process, job_id: str | None) -> WorkerLost:
        code = process.exit_code()
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        message = f"the worker process ended ({how})"
        self.tell("worker.crashed", pid=process.pid, exit=code, job_id=job_id, message=message)
        return WorkerLost("worker_crashed", message)

    def _stuck(self, process: _Process, job_id: str | None, what: str) -> WorkerLost:
        message = f"the worker process {what}"
        self.tell("worker.crashed", pid=process.pid, exit=None, job_id=job_id, message=message)
        return WorkerLost("worker_timeout", message)

    def _limit_memory(self, process: _Process, job_id: str | None) -> None:
        """End a process that holds more than it may (docs/decisions/0015-limits.md)."""
        held = memory.held(process.pid) if self.memory_limit is not None else 0
        if self.memory_limit is None or held <= self.memory_limit:
            return
        message = (
            f"the worker process took {held >> 20} MiB, more than worker.memory_limit "
            f"({self.memory_limit >> 20} MiB; raise it if the machine has room)"
        )
        self.tell("worker.crashed", pid=process.pid, exit=None, job_id=job_id, message=message)
        raise WorkerLost("worker_memory", message)

    def _kill(self) -> None:
        if self._process is not None:
            process, self._process = self._process, None
            process.kill()
