"""A running worker process: its pipes and how it ends."""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
from collections.abc import Sequence
from typing import IO, Any, cast

from msgspec import Struct

from lensd.errors import WorkerUnavailable
from lensd.store.json_lines import decode, encode
from lensd.worker import isolated
from lensd.worker.request import Answer, AnyAnswer

KILL_SECONDS = 5.0
# One core for each of the worker's own threads. glibc's malloc keeps freed memory: otherwise it
# would give each block of some MB back and fetch it again, and the kernel fills its pages with
# zeros each time. All threads share one heap, since malloc_trim does not reach the end of others.
ENVIRONMENT = {
    **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    **dict.fromkeys(("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"), str(64 * 2**20)),
    "MALLOC_ARENA_MAX": "1",
}


class Process:
    """Started with the constructor; `kill` ends it. `answers`: the types of what it sends.

    Raises WorkerUnavailable.
    """

    def __init__(self, command: Sequence[str], answers: Any = AnyAnswer) -> None:
        self._answers = answers
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                cwd=isolated.FOLDER,
                env=isolated.environment() | ENVIRONMENT,
                bufsize=0,
            )
        except OSError as error:
            raise WorkerUnavailable(error) from error
        self._stdin = cast("IO[bytes]", self._process.stdin)
        self._stdout = cast("IO[bytes]", self._process.stdout)
        self._buffer = b""
        self.pid = self._process.pid
        self.uses_cuda = False

    def send(self, message: Struct) -> bool:
        """False if the process has ended or is ending."""
        if self._process.poll() is not None or _is_ending(self.pid):
            return False
        try:
            self._stdin.write(encode(message))
        except BrokenPipeError:
            return False
        return True

    def fileno(self) -> int:
        """Of the pipe that it writes to."""
        return self._stdout.fileno()

    def receive(self, seconds: float) -> Answer | None:
        """The next message, or None if there is none for so long.

        Raises EOFError when there will be none, ValueError for a line that is no message.
        """
        if b"\n" not in self._buffer:
            with selectors.DefaultSelector() as selector:
                selector.register(self._stdout, selectors.EVENT_READ)
                if not selector.select(seconds):
                    return None
            chunk = os.read(self._stdout.fileno(), 65536)
            if not chunk:
                raise EOFError
            self._buffer += chunk
        line, newline, rest = self._buffer.partition(b"\n")
        if not newline:
            return None
        self._buffer = rest
        answer: Answer = decode(line, self._answers)
        return answer

    def exit_code(self) -> int | None:
        """Of a process that has closed its pipe; None if it does not end within 5 seconds."""
        try:
            return self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> None:
        """End it. One that a disk holds, which does not answer, ends when the disk answers."""
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(KILL_SECONDS)
        self._stdin.close()
        self._stdout.close()


def _is_ending(pid: int) -> bool:
    """Whether a child was killed, but not all of its threads have ended.

    Until then it has no exit code, and its pipes are open.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] in (b"Z", b"X")
    except (FileNotFoundError, ProcessLookupError):
        return True
