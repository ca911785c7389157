"""A process under strace: its calls that change files, and faults at each of them.

Only the main thread is traced, not the threads and processes that it starts: strace counts calls
per thread, and a number must mean one call.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.support.limits import PATIENCE

# Every call that can change what a disk holds. A crash matrix has a point for each.
CHANGING = frozenset(
    [
        "open", "openat", "openat2", "creat", "mkdir", "mkdirat", "mknod", "mknodat", "rmdir",
        "unlink", "unlinkat", "rename", "renameat", "renameat2", "link", "linkat", "symlink",
        "symlinkat", "write", "writev", "pwrite64", "pwritev", "pwritev2", "sendfile",
        "copy_file_range", "splice", "truncate", "ftruncate", "fallocate", "fsync", "fdatasync",
        "sync", "syncfs", "sync_file_range", "msync", "chmod", "fchmod", "fchmodat", "fchmodat2",
        "chown", "fchown", "lchown", "fchownat", "utime", "utimes", "utimensat", "futimesat",
        "setxattr", "lsetxattr", "fsetxattr", "removexattr", "lremovexattr", "fremovexattr",
        "ioctl", "fcntl",
    ]
)  # fmt: skip
# Of files by position; `read` is for pipes here.
READING = frozenset(["pread64", "preadv", "preadv2"])
_ONLY_IF = {  # these calls change something with such arguments only
    "open": re.compile(r"O_(CREAT|WRONLY|RDWR|TRUNC)|/lensd-test-"),
    "openat": re.compile(r"O_(CREAT|WRONLY|RDWR|TRUNC)|/lensd-test-"),
    "ioctl": re.compile(r"FICLONE"),
    "fcntl": re.compile(r"F_SETLEASE"),
}
_LINE = re.compile(r"(\w+)\((.*)")


class Call(NamedTuple):
    """One call of a traced process: the `number`th of its `name`."""

    name: str
    number: int
    text: str

    def __repr__(self) -> str:
        return f"{self.name} {self.number}: {self.text[:100]}"


def calls(trace: Path, names: frozenset[str] = CHANGING) -> list[Call]:
    """The calls of a trace that change something, numbered by name.

    Opening a file that is not there is kept: tests mark moments by it.
    """
    counts: dict[str, int] = defaultdict(int)
    found: list[Call] = []
    for line in trace.read_text(errors="replace").splitlines():
        match = _LINE.match(line)
        if match is None:
            continue
        name, text = match.groups()
        counts[name] += 1
        if name in names and (name not in _ONLY_IF or _ONLY_IF[name].search(text)):
            found.append(Call(name, counts[name], text))
    return found


def times_called(trace: Path, name: str) -> int:
    """How often a traced process entered a call, with the one that killed it."""
    return sum(line.startswith(f"{name}(") for line in trace.read_text().splitlines())


def killed_at(call: Call) -> str:
    """SIGKILL on entering it: the kernel then leaves it out."""
    return f"{call.name}:signal=SIGKILL:when={call.number}"


def failing_at(call: Call, error: str) -> str:
    """The kernel leaves it out and returns this error."""
    return f"{call.name}:error={error}:when={call.number}"


def stopped_after(call: Call) -> str:
    """SIGSTOP for the whole process, once the call is done."""
    return f"{call.name}:signal=SIGSTOP:when={call.number}"


def late_at(call: Call, seconds: float) -> str:
    """The main thread begins it late; other threads go on."""
    return f"{call.name}:delay_enter={int(seconds * 1e6)}:when={call.number}"


class Tracer:
    """strace on a running process; `does`: the faults above that it causes."""

    def __init__(
        self, pid: int, trace: Path, names: Sequence[str], does: Sequence[str] = ()
    ) -> None:
        done = [argument for what in does for argument in ("-e", f"inject={what}")]
        self._pid = pid
        self._trace = trace
        self._said = trace.with_name(f"{trace.name}.said")
        trace.unlink(missing_ok=True)
        command = ["strace", "-s", "128", "-o", str(trace), "-p", str(pid)]
        with self._said.open("wb") as said:
            self._process = subprocess.Popen(
                [*command, "-e", f"trace={','.join(names)}", *done], stderr=said
            )
        self._wait(self._is_attached)

    def at_stop(self, act: Callable[[], None], then: signal.Signals = signal.SIGCONT) -> bool:
        """Call `act` while the process is stopped, then continue or kill it.

        False: it ended before it stopped.
        """
        if not self._wait(self._is_stopped):
            return False
        act()
        os.kill(self._pid, then)
        return True

    def wait(self) -> None:
        """Until the process is gone."""
        self._process.wait(PATIENCE)

    def _wait(self, holds: Callable[[], bool]) -> bool:
        deadline = time.monotonic() + PATIENCE
        while not holds():
            if self._process.poll() is not None:
                return False
            if time.monotonic() > deadline:
                raise TimeoutError
            time.sleep(0.001)
        return True

    def _is_attached(self) -> bool:
        """strace says so after it has interrupted the process, which runs untraced before that.

        /proc shows strace as the tracer a moment earlier.
        """
        return f"Process {self._pid} attached" in self._said.read_text(errors="replace")

    def _is_stopped(self) -> bool:
        return "--- stopped by SIGSTOP ---" in self._trace.read_text(errors="replace")
