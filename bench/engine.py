"""Measure the time and the memory that a warm worker needs for a file, and compare with references.

Run it from the top of the tree with `make bench` or `python -m bench.engine [FILE...]`. Without
FILE it writes LoRAs with the names, shapes and sizes of real ones; the largest have 1.3 GB. Each
round measures every mode and every reference once, in turn, so that noise of the machine affects
all of them. It prints medians and, in brackets, the smallest and the largest number. CPU seconds
are user and system time of all threads: other processes affect them far less. `busy` is mode ultra
with as many busy processes of the same niceness as there are cores. If the worker finds CUDA, each
mode is measured on that device too. All numbers go to `bench/results/engine.json`, where files that
were not measured keep their numbers. `--quick` leaves out `busy` and `full`, which take longest.

The seconds of the worker are from the request to its result: read, compute, write, flush, read back
and hash. Its memory is counted from its start without a file, so without that of torch.

`--before TREE` measures the worker of another working tree in the same rounds, `--modes` only some
modes. Their numbers are printed, and not kept.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from bench.measured_worker import Cost, MeasuredWorker, References
from bench.sizes import Recipe, machine, sources
from bench.tables import ratio

ROUNDS = 5
MODES = ("analyze", "rank", "int8", "ultra")
REFERENCES = ("copy", "qr", "peer")
RESULTS = Path(__file__).with_name("results") / "engine.json"
# Of the small ranks, as most files have them, there are two spectra: one in which a third of the
# ranks has 99 % of the energy, and a flat one in which nearly all ranks are needed.
FLAT = 24.0
RECIPES = (
    Recipe("SD 1.5, kohya, rank 8", None, "kohya", 8, 4.0, "F16", 3.0),
    Recipe("SD 1.5, kohya, rank 8, flat", None, "kohya", 8, 4.0, "F16", FLAT),
    Recipe("SD 1.5, kohya, rank 128", None, "kohya", 128, 64.0, "F16", 24.0),
    Recipe("SDXL, kohya, rank 16", "sdxl_kohya", "kohya", 16, 8.0, "F16", 6.0),
    Recipe("SDXL, kohya, rank 16, flat", "sdxl_kohya", "kohya", 16, 8.0, "F16", FLAT),
    Recipe("SDXL, kohya, rank 32", "sdxl_kohya", "kohya", 32, 16.0, "F16", 12.0),
    Recipe("SDXL, kohya, rank 32, flat", "sdxl_kohya", "kohya", 32, 16.0, "F16", FLAT),
    Recipe("SDXL, peft, rank 32", "sdxl_peft", "peft", 32, None, "F16", 12.0),
    Recipe("SDXL, peft, rank 32, flat", "sdxl_peft", "peft", 32, None, "F16", FLAT),
    Recipe("SDXL, kohya, rank 128", "sdxl_kohya", "kohya", 128, 64.0, "F16", 24.0),
    Recipe("FLUX, kohya, rank 16", "flux_kohya", "kohya", 16, 16.0, "BF16", 6.0),
    Recipe("FLUX, kohya, rank 16, flat", "flux_kohya", "kohya", 16, 16.0, "BF16", FLAT),
    Recipe("FLUX, peft, rank 16", "flux_peft", "peft", 16, None, "BF16", 6.0),
    Recipe("FLUX, kohya, rank 128", "flux_kohya", "kohya", 128, 128.0, "BF16", 24.0),
    Recipe("FLUX, peft, rank 128", "flux_peft", "peft", 128, None, "BF16", 24.0),
)
BUSY = "while True: pass"


@contextmanager
def busy_machine() -> Iterator[None]:
    """Inside, every core has one more busy process."""
    others = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in os.sched_getaffinity(0)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


@dataclass(slots=True)
class Found:
    """The costs of each task in each round, and what its outputs take."""

    bytes: int
    bytes_out: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    cpu_seconds: dict[str, list[float]] = field(default_factory=dict)
    mib_above_bare: dict[str, float] = field(default_factory=dict)

    def note(self, what: str, cost: Cost) -> None:
        self.seconds.setdefault(what, []).append(cost.seconds)
        self.cpu_seconds.setdefault(what, []).append(cost.cpu_seconds)

    def note_peak(self, mode: str, above_bare: float) -> None:
        self.mib_above_bare[mode] = max(self.mib_above_bare.get(mode, 0.0), above_bare)


def measure(source: Path, folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Return the costs of each mode and reference in each round, and memory and size by mode."""
    found = Found(source.stat().st_size)
    with ExitStack() as stack:
        worker = stack.enter_context(MeasuredWorker(folder))
        worker.warm_up(given.modes)
        modes = [*given.modes, *(f"{mode} cuda" for mode in given.modes if worker.has_cuda)]
        worker.warm_up(modes[len(given.modes) :])
        bare = worker.resident()
        worker.peak()
        references = stack.enter_context(References(source))
        tasks: dict[str, Callable[[], Cost]] = {
            **{name: partial(references.run, name) for name in REFERENCES},
            **{mode: partial(worker.run, source, mode) for mode in modes},
        }
        if given.before is not None:
            other = stack.enter_context(MeasuredWorker(folder, given.before))
            other.warm_up(given.modes)
            tasks |= {f"{m}, before": partial(other.run, source, m) for m in given.modes}
        for number in range(given.rounds + 1):
            for name, task in tasks.items():
                cost = task()
                if name in modes:
                    found.note_peak(name, worker.peak() - bare)
                    found.bytes_out[name] = cost.bytes_out or found.bytes
                if number:  # round 0 only fills caches
                    found.note(name, cost)
            if number and not given.quick:
                with busy_machine():
                    found.note("busy", worker.run(source, "ultra"))
        if not given.quick:
            found.note("full", references.run("full"))
    return asdict(found)


def report(name: str, found: dict[str, Any]) -> Iterator[str]:
    seconds, cpu = found["seconds"], found["cpu_seconds"]
    yield f"{name}, {found['bytes'] / 1e6:.1f} MB"
    for what in seconds:
        yield (
            f"  {what:16}{_spread(seconds[what])} s{_spread(cpu[what])} CPU s"
            f"{ratio(found, what, 'qr'):8.2f} x qr"
            f"{ratio(found, what, 'copy', 'seconds'):8.1f} x copy's seconds"
        )
    for mode, memory in found["mib_above_bare"].items():
        smaller = found["bytes"] / found["bytes_out"][mode]
        yield f"  {mode:16}{memory:9.0f} MiB above a bare worker, {smaller:.1f} times smaller"
        if f"{mode}, before" in cpu:
            yield f"  {mode:16}{ratio(found, mode, mode + ', before'):9.2f} x the CPU s before"
    if "busy" in seconds:
        yield f"  busy            {ratio(found, 'busy', 'ultra', 'seconds'):9.2f} x ultra's seconds"


def _spread(rounds: Sequence[float]) -> str:
    return f"{median(rounds):9.3f} [{min(rounds):.3f} .. {max(rounds):.3f}]"


def write_results(name: str, found: dict[str, Any], where: str) -> None:
    """Replace the numbers of one file in RESULTS."""
    RESULTS.parent.mkdir(exist_ok=True)
    old = json.loads(RESULTS.read_text(encoding="utf-8"))["files"] if RESULTS.exists() else {}
    old[name] = found
    files = {recipe.name: old[recipe.name] for recipe in RECIPES if recipe.name in old}
    text = json.dumps({"machine": where, "files": files}, indent=1)
    RESULTS.write_text(text + os.linesep, encoding="utf-8")


def options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench.engine", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("file", nargs="*")
    parser.add_argument("--only", default="", help="files whose name contains these words")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--quick", action="store_true", help="without `busy` and `full`")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES, help="only these")
    parser.add_argument("--before", type=Path, help="another working tree, with a .venv")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    given = options(arguments)
    where = f"{machine()}, load average {os.getloadavg()[0]:.1f} before"
    print(where, flush=True)
    recipes = [recipe for recipe in RECIPES if given.only in recipe.name]
    with tempfile.TemporaryDirectory(prefix="lensd-bench-") as folder:
        for name, path in sources(given.file, Path(folder), recipes):
            found = measure(path, Path(folder), given)
            print(*report(name, found), sep="\n", flush=True)
            if not (given.file or given.before) and given.modes == MODES:
                write_results(name, found, where)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
