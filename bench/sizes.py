"""Measure modes and energies with LoRA files of real size: bytes, error, ranks, seconds.

Run it from the top of the tree with `make bench` or `python -m bench.sizes [FILE...]`. Without FILE
it writes four files with names, shapes and sizes as trainers write them, and writes the numbers to
`bench/results/sizes.json`. The spectrum of the files decides how small they become: the median rank
that has 99 % of the energy is 24 of 128, 12 of 32 or 6 of 16, as in typical published files.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

# (mode, energy). Mode int8 keeps every rank at any energy.
SETTINGS = (
    ("rank", 0.99),
    ("rank", 0.999),
    ("int8", 0.99),
    ("ultra", 0.99),
    ("ultra", 0.999),
)
RESULTS = Path(__file__).with_name("results") / "sizes.json"
HEAD = (
    "| file | mode | energy | before | after | smaller by | delta error | median rank | seconds |",
    "|---|---|---:|---:|---:|---:|---:|---:|---:|",
)


class Recipe(NamedTuple):
    """How to write one file. `modules`: a function of tests.support.sdxl_flux; None: SD 1.5."""

    name: str
    modules: str | None
    naming: str
    rank: int
    alpha: float | None
    dtype: str
    effective: float


RECIPES = (
    Recipe("SD 1.5, kohya, rank 128", None, "kohya", 128, 64.0, "F16", 24.0),
    Recipe("SDXL, kohya, rank 32", "sdxl_kohya", "kohya", 32, 16.0, "F16", 12.0),
    Recipe("FLUX, kohya, rank 16", "flux_kohya", "kohya", 16, 16.0, "BF16", 6.0),
    Recipe("FLUX, peft, rank 32", "flux_peft", "peft", 32, None, "BF16", 12.0),
)


class Row(NamedTuple):
    """The numbers for one setting of one file."""

    name: str
    mode: str
    energy: float
    numbers: dict[str, Any]  # of `lensd compress --json`
    seconds: float  # of the whole command, including its start

    def __str__(self) -> str:
        before, after = self.numbers["bytes_in"], self.numbers["bytes_out"]
        ranks = self.numbers["rank_in"]["median"], self.numbers["rank_out"]["median"]
        cells = (
            self.name,
            f"`{self.mode}`",
            f"{self.energy:g}",
            f"{before / 1e6:.1f} MB",
            f"{after / 1e6:.1f} MB",
            f"{before / after:.1f}",
            f"{self.numbers['delta_error']:.4f}",
            "{:g} of {:g}".format(*reversed(ranks)),
            f"{self.seconds:.1f}",
        )
        return f"| {' | '.join(cells)} |"


def main(arguments: Sequence[str]) -> int:
    from lensd import __version__

    print(f"lensd {__version__}, {machine()}\n")
    print(*HEAD, sep="\n")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="lensd-bench-") as folder:
        for name, path in sources(arguments, Path(folder)):
            for setting in SETTINGS:
                rows.append(measure(name, path, *setting, Path(folder)))
                print(rows[-1], flush=True)
    if not arguments:
        write_results(rows)
    return 0


def write_results(rows: Sequence[Row], path: Path = RESULTS) -> None:
    """Write the numbers from which the tables of the documentation are made."""
    found = [
        {
            "file": row.name,
            "mode": row.mode,
            "energy": row.energy,
            **{name: row.numbers[name] for name in ("bytes_in", "bytes_out", "delta_error")},
            "rank_in": row.numbers["rank_in"]["median"],
            "rank_out": row.numbers["rank_out"]["median"],
        }
        for row in rows
    ]
    path.write_text(json.dumps({"machine": machine(), "rows": found}, indent=1) + "\n")


def machine() -> str:
    """Return processor, cores, Python and torch as one line."""
    from importlib.metadata import version

    model = platform.machine()
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0))
    return (
        f"{cores} cores of {names[0] if names else model}, "
        f"Python {platform.python_version()}, torch {version('torch')}"
    )


def sources(
    arguments: Sequence[str], folder: Path, recipes: Sequence[Recipe] = RECIPES
) -> Iterator[tuple[str, Path]]:
    """Yield (name, file); a generated file is removed before the next one is written."""
    for argument in arguments:
        yield Path(argument).name, Path(argument)
    for recipe in () if arguments else recipes:
        path = folder / "source.safetensors"
        write(path, recipe)
        yield recipe.name, path
        path.unlink()


def write(path: Path, recipe: Recipe) -> None:
    from tests.support import sdxl_flux
    from tests.support.realistic import write_lora

    modules = getattr(sdxl_flux, recipe.modules)() if recipe.modules else None
    write_lora(
        path,
        naming=recipe.naming,
        rank=recipe.rank,
        alpha=recipe.alpha,
        dtype=recipe.dtype,
        modules=modules,
        effective_rank=recipe.effective,
    )


def measure(name: str, path: Path, mode: str, energy: float, folder: Path) -> Row:
    """Run `lensd compress`, and return its numbers. Raises CalledProcessError."""
    out = folder / "out.safetensors"
    command = [sys.executable, "-m", "lensd", "compress", str(path), "-o", str(out)]
    command += ["--mode", mode, "--energy", str(energy), "--force", "--json"]
    began = time.monotonic()
    output = subprocess.check_output(command, text=True)
    seconds = time.monotonic() - began
    numbers = json.loads(output)
    if numbers["bytes_out"] != out.stat().st_size:
        raise AssertionError(f"{out} has another size than `lensd compress` reports")
    return Row(name, mode, energy, numbers, seconds)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
