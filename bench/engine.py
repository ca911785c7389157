"""Measure the time and the memory that a warm worker needs for a file, and compare with references.

Run it from the top of the tree with `make bench` or `python -m bench.engine [FILE...]`. Without
FILE it writes LoRAs with the names, shapes and sizes of real ones; the largest have 1.3 GB. Each
round measures every mode and every reference once, so that noise of the machine affects all of
them. It prints medians and, in brackets, the smallest and the largest number. `busy` is mode ultra
with as many busy processes of the same niceness as there are cores. If the worker finds CUDA, each
mode is measured on that device too. All numbers go to `bench/results/engine.json`.

The seconds of the worker are from the request to its result: read, compute, write, flush, read back
and hash. Its memory is counted from its start without a file, so without that of torch.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from bench.memory import resident
from bench.sizes import Recipe, machine, sources
from lensd.logs.events import Event, WorkerStarted
from lensd.worker import isolated
from lensd.worker.request import Result
from lensd.worker.supervisor import End, Worker
from tests.engine import asking

ROUNDS = 3
MODES = ("analyze", "rank", "int8", "ultra")
REFERENCES = ("copy", "qr")
RESULTS = Path(__file__).with_name("results") / "engine.json"
RECIPES = (
    Recipe("SD 1.5, kohya, rank 128", None, "kohya", 128, 64.0, "F16", 24.0),
    Recipe("SDXL, kohya, rank 32", "sdxl_kohya", "kohya", 32, 16.0, "F16", 12.0),
    Recipe("SDXL, kohya, rank 128", "sdxl_kohya", "kohya", 128, 64.0, "F16", 24.0),
    Recipe("FLUX, kohya, rank 16", "flux_kohya", "kohya", 16, 16.0, "BF16", 6.0),
    Recipe("FLUX, peft, rank 16", "flux_peft", "peft", 16, None, "BF16", 6.0),
    Recipe("FLUX, kohya, rank 128", "flux_kohya", "kohya", 128, 128.0, "BF16", 24.0),
    Recipe("FLUX, peft, rank 128", "flux_peft", "peft", 128, None, "BF16", 24.0),
)


class Bench:
    """A worker process, started as the daemon does."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.pid = 0
        self._has_cuda = False
        command = isolated.command("lensd.engine")
        self._worker = Worker(command, self._log, timeout=600, idle_exit=600, nice=0)

    def _log(self, event: Event) -> None:
        if isinstance(event, WorkerStarted):
            self.pid = event.pid
            self._has_cuda = event.device == "cuda"

    def ask(self, source: Path, mode: str) -> tuple[float, int]:
        """Run one job; return its seconds and the bytes of its output (of its input for analyze).

        The mode may be followed by a device: `ultra cuda`.
        """
        temporary = self._folder / "temporary"
        mode, _, device = mode.partition(" ")
        device = device or "cpu"
        if mode == "analyze":
            analysis = asking.analysis(source, device=device)
            began = time.perf_counter()
            analyzed = self._worker.request(analysis, give_up=_never)
            took = time.perf_counter() - began
            _require_result(analyzed)
            return took, source.stat().st_size
        output = asking.output(source, temporary, mode=mode, device=device)
        began = time.perf_counter()
        compressed = self._worker.request(output, give_up=_never)
        took = time.perf_counter() - began
        _require_result(compressed)
        size = temporary.stat().st_size
        temporary.unlink()
        return took, size

    def ask_on_busy_machine(self, source: Path, mode: str) -> float:
        """Return the seconds of one job while every core has another busy process."""
        others = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in os.sched_getaffinity(0)]
        try:
            return self.ask(source, mode)[0]
        finally:
            for other in others:
                other.kill()
                other.wait()

    @property
    def modes(self) -> list[str]:
        return [*MODES, *(f"{mode} cuda" for mode in MODES if self._has_cuda)]

    def start(self) -> float:
        """Make the worker load all that a job needs; return its memory in MiB then."""
        tiny = self._folder / "tiny.safetensors"
        command = [sys.executable, "-c", TINY, str(tiny)]
        subprocess.run(command, check=True)
        self.ask(tiny, "ultra")
        for mode in self.modes:
            self.ask(tiny, mode)
        return resident(self.pid, "VmRSS")

    def peak(self) -> float:
        """Return the largest memory in MiB since the last call."""
        found = resident(self.pid, "VmHWM")
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")
        return found

    def stop(self) -> None:
        self._worker.stop("done")


def _require_result(answer: End) -> None:
    if not isinstance(answer, Result):
        raise TypeError(f"no result: {answer}")


def _never() -> bool:
    return False


BUSY = "while True: pass"
# Writes a file that needs almost no memory.
TINY = """
import sys
from pathlib import Path
from tests.support.realistic import small_lora
small_lora(Path(sys.argv[1]))
"""


def measure(source: Path, folder: Path) -> dict[str, Any]:
    """Return the seconds of each mode and reference in each round, and memory and size by mode."""
    bench = Bench(folder)
    seconds: dict[str, list[float]] = defaultdict(list)
    memory: dict[str, float] = {}
    size: dict[str, int] = {}
    try:
        bare = bench.start()
        bench.peak()
        for number in range(ROUNDS + 1):
            for name in REFERENCES:
                seconds[name] += reference(name, source, 1)[: 1 if number else 0]
            for mode in bench.modes:
                took, size[mode] = bench.ask(source, mode)
                memory[mode] = max(memory.get(mode, 0.0), bench.peak() - bare)
                if number:  # round 0 only fills caches
                    seconds[mode].append(took)
            if number:
                seconds["busy"].append(bench.ask_on_busy_machine(source, "ultra"))
    finally:
        bench.stop()
    seconds["full"] = reference("full", source, 1)
    return {
        "bytes": source.stat().st_size,
        "bytes_out": size,
        "seconds": seconds,
        "mib_above_bare": memory,
    }


def reference(name: str, source: Path, rounds: int) -> list[float]:
    command = [sys.executable, "-m", "bench.references", name, str(source), str(rounds)]
    found: list[float] = json.loads(subprocess.check_output(command, text=True))
    return found


def report(name: str, found: dict[str, Any]) -> Iterator[str]:
    seconds = {what: median(rounds) for what, rounds in found["seconds"].items()}
    yield f"{name}, {found['bytes'] / 1e6:.1f} MB"
    for what, rounds in found["seconds"].items():
        yield (
            f"  {what:13}{seconds[what]:9.3f} s  [{min(rounds):.3f} .. {max(rounds):.3f}]"
            f"{1e9 * seconds[what] / found['bytes']:8.2f} ms/MB"
            f"{seconds[what] / seconds['copy']:8.1f} x copy"
            f"{seconds['qr'] / seconds[what]:8.2f} x as fast as qr"
            f"{seconds['full'] / seconds[what]:8.0f} x as fast as full"
        )
    for mode, memory in found["mib_above_bare"].items():
        smaller = found["bytes"] / found["bytes_out"][mode]
        yield f"  {mode:13}{memory:9.0f} MiB above a bare worker, {smaller:.1f} times smaller"
    yield f"  busy         {seconds['busy'] / seconds['ultra']:9.2f} x the time of ultra alone"


def main(arguments: Sequence[str]) -> int:
    print(machine(), flush=True)
    results: dict[str, Any] = {"machine": machine(), "files": {}}
    with tempfile.TemporaryDirectory(prefix="lensd-bench-") as folder:
        for name, path in sources(arguments, Path(folder), RECIPES):
            found = measure(path, Path(folder))
            results["files"][name] = found
            print(*report(name, found), sep="\n", flush=True)
    if not arguments:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(results, indent=1) + os.linesep, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
