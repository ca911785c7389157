"""Compare the outputs and the seconds of a GPU with those of the CPU.

Run it from the top of the tree with `python -m bench.gpu [FILE...]` on a machine with an NVIDIA GPU
and a torch with CUDA; `--device cuda:1` takes another GPU. Without FILE it writes LoRAs with the
shapes of real ones. For each file and mode the worker computes once on the CPU and twice on the
GPU, after one run of each that is not counted. The table has

- the seconds of both, and how many times faster the GPU is,
- in how many modules the rank differs (there should be none),
- the relative difference of the delta errors (at most ALLOWED_ERROR), and of the sizes,
- the share of the output's bytes that are equal, where both have one size: rounding at the other
  device may end in the neighbouring number,
- whether both outputs of the GPU are the same bytes.

It ends with 0 if all of that is as it should be, with 1 if not, and with 2 without a GPU.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from bench.engine import RECIPES
from bench.measured_worker import MeasuredWorker
from bench.sizes import machine, sources
from tests.engine.asking import rank_of

MODES = ("rank", "int8", "ultra")
FILES = (
    "SD 1.5, kohya, rank 8",
    "SD 1.5, kohya, rank 128",
    "SDXL, kohya, rank 32",
    "FLUX, kohya, rank 16",
    "FLUX, kohya, rank 128",
)
ALLOWED_ERROR = 1e-2
COLUMNS = (
    "file, mode",
    "CPU",
    "GPU",
    "faster",
    "other ranks",
    "delta error",
    "difference",
    "size",
    "equal bytes",
    "twice the same",
)


class Compared(NamedTuple):
    """One file and mode on both devices."""

    name: str
    cpu_seconds: float
    gpu_seconds: float
    other_ranks: int  # modules
    delta_error: float  # of the CPU's output
    error_difference: float  # relative
    size_difference: float  # relative
    equal_bytes: float | None  # share; None if the sizes differ
    is_repeatable: bool

    @property
    def is_right(self) -> bool:
        agrees = self.other_ranks == 0 and self.error_difference <= ALLOWED_ERROR
        return agrees and self.is_repeatable

    def __str__(self) -> str:
        cells = (
            self.name,
            f"{self.cpu_seconds:.2f} s",
            f"{self.gpu_seconds:.2f} s",
            f"{self.cpu_seconds / self.gpu_seconds:.1f} times",
            str(self.other_ranks),
            f"{self.delta_error:.6f}",
            f"{self.error_difference:.1e}",
            f"{self.size_difference:.1e}",
            "-" if self.equal_bytes is None else f"{self.equal_bytes:.2%}",
            "yes" if self.is_repeatable else "NO",
        )
        return f"| {' | '.join(cells)} |"


def compare(
    worker: MeasuredWorker, source: Path, name: str, mode: str, device: str, folder: Path
) -> Compared:
    """Compute a file on the CPU and on `device`."""
    outputs = [folder / f"output{number}" for number in range(3)]
    seconds, errors = [], []
    for output, where in zip(outputs, ("cpu", device, device), strict=True):
        worker.run(source, f"{mode} {where}")
        cost, measures = worker.compress(source, f"{mode} {where}", output)
        if measures.device != where:
            raise RuntimeError(f"{where}: {measures.device_note or measures.device}")
        seconds.append(cost.seconds)
        errors.append(measures.delta_error)
    ranks = [rank_of(output) for output in outputs[:2]]
    sizes = [output.stat().st_size for output in outputs[:2]]
    data = [np.fromfile(output, dtype=np.uint8) for output in outputs]
    return Compared(
        f"{name}, {mode}",
        seconds[0],
        min(seconds[1:]),
        sum(ranks[0][module] != ranks[1][module] for module in ranks[0]),
        errors[0],
        abs(errors[1] / errors[0] - 1) if errors[0] else abs(errors[1]),
        abs(sizes[1] / sizes[0] - 1),
        float((data[0] == data[1]).mean()) if sizes[0] == sizes[1] else None,
        np.array_equal(data[1], data[2]),
    )


def rows(files: Sequence[str], device: str) -> Iterator[Compared]:
    with tempfile.TemporaryDirectory(prefix="lensd-bench-") as name:
        folder = Path(name)
        recipes = [recipe for recipe in RECIPES if recipe.name in FILES]
        with MeasuredWorker(folder) as worker:
            for title, source in sources(files, folder, recipes):
                for mode in MODES:
                    yield compare(worker, source, title, mode, device, folder)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="bench.gpu", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("file", nargs="*")
    parser.add_argument("--device", default="cuda")
    given = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("torch finds no GPU here: nothing was measured", file=sys.stderr)
        return 2
    print(f"{torch.cuda.get_device_name(given.device)}; {machine()}")
    print(f"| {' | '.join(COLUMNS)} |\n|---{'|---:' * (len(COLUMNS) - 1)}|")
    found = []
    for row in rows(given.file, given.device):
        print(row, flush=True)
        found.append(row)
    return 0 if all(row.is_right for row in found) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
