"""Processes whose jobs are measured: lensd's worker, and the references beside it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Self

from bench.memory import resident
from lensd.logs.events import Event, WorkerStarted
from lensd.logs.measures import Compressed
from lensd.worker import isolated
from lensd.worker.request import AnalyzeResult, CompressResult
from lensd.worker.supervisor import Worker
from lensd.worker.workers import End
from tests.engine import asking

# The kernel's number for the processor time of a process, beside the inverted pid (see
# clock_getcpuclockid(3), which Python does not have). /proc/PID/stat counts only in 10 ms.
PROCESS_CLOCK = 2
# Writes a file that needs almost no memory.
TINY = """
import sys
from pathlib import Path
from tests.support.realistic import small_lora
small_lora(Path(sys.argv[1]))
"""


class Cost(NamedTuple):
    """Of one job."""

    seconds: float
    cpu_seconds: float  # user and system, all threads
    bytes_out: int = 0


class MeasuredWorker:
    """A worker process, started as the daemon does.

    `tree` is another working tree with a `.venv`: the worker then has its code.
    """

    def __init__(self, folder: Path, tree: Path | None = None) -> None:
        self._temporary = folder / "temporary"
        self._pid = 0
        self.has_cuda = False
        command = isolated.command("lensd.engine")
        if tree is not None:
            script = tree / "lensd/worker/isolated.py"
            command = (str(tree / ".venv/bin/python"), "-P", str(script), "lensd.engine")
        self._worker = Worker(command, self._log, timeout=600, idle_exit=600, nice=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._worker.stop("done")

    def _log(self, event: Event) -> None:
        if isinstance(event, WorkerStarted):
            self._pid = event.pid
            self.has_cuda = event.device == "cuda"

    def run(self, source: Path, mode: str) -> Cost:
        """Run one job. The mode may be followed by a device: `ultra cuda`.

        Raises TypeError if the worker returned no result.
        """
        name, _, device = mode.partition(" ")
        if name == "analyze":
            analysis = asking.analysis(source, device=device or "cpu")
            cost, answer = self._measure(lambda: self._worker.request(analysis, give_up=_never))
            if not isinstance(answer, AnalyzeResult):
                raise TypeError(f"no result: {answer}")
            return cost
        cost, _ = self.compress(source, mode, self._temporary)
        self._temporary.unlink()
        return cost

    def compress(self, source: Path, mode: str, output: Path) -> tuple[Cost, Compressed]:
        """Run one job as `run` does; keep its output, and return its measures too."""
        name, _, device = mode.partition(" ")
        request = asking.output(source, output, mode=name, device=device or "cpu", min_saving=-1.0)
        cost, answer = self._measure(lambda: self._worker.request(request, give_up=_never))
        if not isinstance(answer, CompressResult):
            raise TypeError(f"no result: {answer}")
        return cost._replace(bytes_out=output.stat().st_size), answer.measures

    def _measure(self, request: Callable[[], End]) -> tuple[Cost, End]:
        began, used = time.perf_counter(), self._cpu_seconds()
        answer = request()
        return Cost(time.perf_counter() - began, self._cpu_seconds() - used), answer

    def _cpu_seconds(self) -> float:
        """Return what all threads of the process have used, also those that have ended."""
        if not self._pid:
            return 0.0
        return time.clock_gettime((~self._pid << 3) | PROCESS_CLOCK)

    def warm_up(self, modes: Sequence[str]) -> None:
        """Make the process load all that a job needs."""
        tiny = self._temporary.with_name("tiny.safetensors")
        subprocess.run([sys.executable, "-c", TINY, str(tiny)], check=True)
        for mode in modes:
            self.run(tiny, mode)

    def resident(self) -> float:
        """Return the memory in MiB now."""
        return resident(self._pid, "VmRSS")

    def peak(self) -> float:
        """Return the largest memory in MiB since the last call."""
        found = resident(self._pid, "VmHWM")
        Path(f"/proc/{self._pid}/clear_refs").write_text("5")
        return found


class References:
    """The process of bench.references for one file."""

    def __init__(self, source: Path) -> None:
        command = [sys.executable, "-m", "bench.references", str(source)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def run(self, way: str) -> Cost:
        """Measure one of the ways of bench.references. Raises EOFError if the process has ended."""
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise EOFError
        stdin.write(way + "\n")
        stdin.flush()
        if not (line := stdout.readline()):
            raise EOFError(f"the reference {way} ended with {self._process.wait()}")
        return Cost(*json.loads(line))


def _never() -> bool:
    return False
