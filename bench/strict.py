"""Show what an energy means as an error, and what `strict_energy` costs in bytes and time.

Run it from the top of the tree with `python -m bench.strict [FILE]`. Without FILE it writes the
144 MiB Stable Diffusion 1.5 LoRA of the demo first. It prints the table of docs/formats.md.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage

from bench.formats import measure
from bench.sizes import machine
from tests.support.realistic import write_lora

COLUMNS = (
    "energy, allocation",
    "stored as",
    "error of the file",
    "of the worst module",
    "bytes",
    "strict: error of the file",
    "of the worst module",
    "bytes",
    "more bytes",
    "CPU time",
)
STORED = {"rank": "float16", "ultra": "int8"}


def main(arguments: Sequence[str]) -> int:
    from lensd import __version__

    print(f"lensd {__version__}, {machine()}\n")
    print(f"| {' | '.join(COLUMNS)} |")
    print("|---|---|" + "---:|" * (len(COLUMNS) - 2))
    with tempfile.TemporaryDirectory(prefix="lensd-bench-") as folder:
        path = Path(arguments[0]) if arguments else Path(folder, "sd15.safetensors")
        if not arguments:
            write_lora(path)
        for energy in ("0.99", "0.999"):
            for allocation in ("module", "file"):
                for mode, stored in STORED.items():
                    options = ("--energy", energy, "--allocation", allocation)
                    print(f"| {energy}, {allocation} | {stored} ", end="")
                    print(row(path, Path(folder), mode, options), flush=True)
    return 0


def row(path: Path, folder: Path, mode: str, options: Sequence[str]) -> str:
    """Return the cells without and with `strict_energy`."""
    cells, sizes, seconds = [], [], []
    for more in ((), ("--strict-energy",)):
        before = cpu_seconds()
        numbers = measure(path, folder, mode, (*options, *more))
        seconds.append(cpu_seconds() - before)
        sizes.append(numbers["bytes_out"])
        cells += [
            f"{numbers[k]:.2%}".replace("%", " %") for k in ("delta_error", "delta_error_max")
        ]
        cells.append(f"{numbers['bytes_out']:,}")
    cells += [f"{sizes[1] / sizes[0] - 1:.1%}".replace("%", " %")]
    cells += [f"{seconds[1] / seconds[0]:.1f} times"]
    return f"| {' | '.join(cells)} |"


def percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def cpu_seconds() -> float:
    """The time of all children that have ended."""
    used = getrusage(RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
