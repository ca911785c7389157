"""Compare the size that the plan of `lensd once` expects with the size that comes.

    python -m bench.plan FOLDER [LORA...]

FOLDER holds `make_lora.py`, as for bench.models, which writes a file for each of RECIPES; LORA are
further files. Prints the bytes of each allocation, divided by what the plan expects of `module`;
for each allocation the least, the median and the most of these (ALLOCATION_SHARES of
lensd/daemon/sample.py), and how often the bytes lie in the range that the plan shows; and the
seconds of a worker's start (START_SECONDS of lensd/daemon/estimate.py). What `strict_energy` costs
is measured by bench.strict.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch

from bench.sizes import machine
from lensd.config.settings import Settings
from lensd.daemon.sample import expect
from lensd.engine import plans
from lensd.engine.measures import Original
from lensd.engine.passes import Engine
from lensd.engine.reader import Source
from lensd.engine.task import no_progress
from lensd.lora.metadata import Origin
from lensd.lora.parameters import Parameters
from lensd.lora.plan import Findings
from lensd.worker import isolated
from lensd.worker.supervisor import Worker
from tests.engine import asking
from tests.support.realistic import small_lora

ALLOCATIONS = ("module", "file", "balanced")
ENERGIES = (0.9, 0.99, 0.999)
STARTS = 7
MARKS = 1500  # bytes that lensd adds to a header
_SD15 = ("--arch", "sd15", "--rank", "32", "--effective-rank")
RECIPES = {
    **{f"SD 1.5, {s}": (*_SD15, "8", "--spectrum", s)
       for s in ("stretched", "power", "exp", "spike", "flat", "mixed")},
    "SD 1.5, mixed, rank 128": ("--arch", "sd15", "--rank", "128"),
    "SD 1.5, one size of module": (*_SD15, "8", "--rank-spread", "0"),
    "SD 1.5, very different modules": (*_SD15, "8", "--rank-spread", "1.2", "--norm-spread", "1.5"),
    "SDXL, mixed": ("--arch", "sdxl", "--rank", "16", "--effective-rank", "6"),
    "FLUX, mixed": ("--arch", "flux", "--rank", "16", "--effective-rank", "4"),
}  # fmt: skip


class Planned(NamedTuple):
    """The bytes of an allocation, divided by those that the plan expects of `module`."""

    ratio: float
    is_in_range: bool  # of those that the plan shows for this allocation


def main(arguments: Sequence[str]) -> int:
    if not arguments:
        print("usage: python -m bench.plan FOLDER [LORA...]", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    print(f"{machine()}\n{'file':36}{'energy':>8}" + "".join(f"{a:>10}" for a in ALLOCATIONS))
    found: list[list[Planned]] = []
    for name, path in _files(Path(arguments[0]), arguments[1:]):
        for energy in ENERGIES:
            found.append(compare(path, energy))
            cells = (f"{planned.ratio:10.2f}" for planned in found[-1])
            print(f"{name:36}{energy:8}{''.join(cells)}", flush=True)
    for allocation, column in zip(ALLOCATIONS, zip(*found, strict=True), strict=True):
        low, *_, high = ratios = sorted(planned.ratio for planned in column)
        held = sum(planned.is_in_range for planned in column)
        print(
            f"{allocation:10} {low:.2f} to {high:.2f}, median {median(ratios):.2f}; "
            f"{held} of {len(column)} in the range of the plan"
        )
    starts = sorted(_start_seconds() for _ in range(STARTS))
    print(f"worker's start: {median(starts):.2f} s ({starts[0]:.2f} to {starts[-1]:.2f})")
    return 0


def _files(folder: Path, given: Sequence[str]) -> Iterator[tuple[str, str]]:
    for path in given:
        yield os.path.basename(path).removesuffix(".safetensors"), path
    for name, recipe in RECIPES.items():
        with tempfile.TemporaryDirectory(prefix="lensd-bench-") as temporary:
            path = f"{temporary}/lora.safetensors"
            subprocess.run(
                [sys.executable, folder / "make_lora.py", "--quiet", *recipe, path], check=True
            )
            yield name, path


def compare(path: str, energy: float) -> list[Planned]:
    """Return what each allocation needs."""
    settings = Settings(energy=energy, min_saving=0.0)
    size = os.path.getsize(path)
    likely = expect(path, size, settings).bytes
    with Source.open(path) as source:
        p = settings.parameters()
        readings = Engine(source, "cpu", no_progress).first_pass(p)
        origin = Origin("0" * 64, source.identity.size, "lora.safetensors", "0", p.mode, p.energy)
        original = Original(origin, readings)
        found = []
        for allocation in ALLOCATIONS:
            needed = _bytes(source, original, replace(p, allocation=allocation))
            shown = expect(path, size, settings.model_copy(update={"allocation": allocation}))
            is_in_range = shown.least <= needed <= shown.most + MARKS
            found.append(Planned(needed / likely, is_in_range))
        return found


def _bytes(source: Source, original: Original, p: Parameters) -> int:
    chosen = plans.choose(source, original, p, Findings())
    return plans.OutputHeader.of(source, chosen, original.origin).file_bytes()


def _start_seconds() -> float:
    """Return how much longer the first file takes than the second one, of the same bytes."""
    with tempfile.TemporaryDirectory(prefix="lensd-bench-") as folder:
        path, temporary = small_lora(Path(folder, "a.safetensors")).path, Path(folder, "temporary")
        worker = Worker(isolated.command("lensd.engine"), lambda _: None, 60, 60)
        took = []
        for _ in range(2):
            began = time.monotonic()
            worker.request(asking.output(path, temporary, min_saving=0.0), give_up=lambda: False)
            took.append(time.monotonic() - began)
            temporary.unlink()
        worker.stop("done")
        return took[0] - took[1]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
