"""Compare bytes and errors of fixed ranks, ranks by module, ranks by file, and int8.

Run it from the top of the tree with `python -m bench.formats [FILE]`. Without FILE it writes the
144 MiB Stable Diffusion 1.5 LoRA of the demo first. It prints the table of docs/formats.md.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench.sizes import machine
from tests.support.realistic import write_lora

FIXED_RANK = 32
HEAD = (
    "| ranks | stored as | bytes | times smaller | delta error | energy kept |",
    "|---|---|---:|---:|---:|---:|",
)


class Way(NamedTuple):
    """How ranks are chosen: in words for the table, and as options for lensd."""

    ranks: str
    options: tuple[str, ...]


WAYS = (
    Way(f"{FIXED_RANK} in every module", ("--energy", "1", "--max-rank", str(FIXED_RANK))),
    Way("by module, 99 %", ("--energy", "0.99", "--allocation", "module")),
    Way("by file, 99 %", ("--energy", "0.99", "--allocation", "file")),
)
STORED = {"rank": "float16", "ultra": "int8"}


def main(arguments: Sequence[str]) -> int:
    from lensd import __version__

    print(f"lensd {__version__}, {machine()}\n")
    print(*HEAD, sep="\n")
    with tempfile.TemporaryDirectory(prefix="lensd-bench-") as folder:
        path = Path(arguments[0]) if arguments else Path(folder, "sd15.safetensors")
        if not arguments:
            write_lora(path)
        size = path.stat().st_size
        print(f"| all | as it was | {size:,} | 1.0 | 0 | 100 % |")
        print(row("all", "int8", measure(path, Path(folder), "int8", ())), flush=True)
        for way in WAYS:
            for mode, stored in STORED.items():
                numbers = measure(path, Path(folder), mode, way.options)
                print(row(way.ranks, stored, numbers), flush=True)
    return 0


def measure(path: Path, folder: Path, mode: str, options: Sequence[str]) -> dict[str, Any]:
    """Return the numbers of `lensd compress --json`. Raises CalledProcessError."""
    out = folder / "out.safetensors"
    command = [sys.executable, "-m", "lensd", "compress", str(path), "-o", str(out)]
    output = subprocess.check_output([*command, "--mode", mode, *options, "--force", "--json"])
    numbers: dict[str, Any] = json.loads(output)
    return numbers


def row(ranks: str, stored: str, numbers: dict[str, Any]) -> str:
    before, after = numbers["bytes_in"], numbers["bytes_out"]
    cells = (
        ranks,
        stored,
        f"{after:,}",
        f"{before / after:.1f}",
        f"{numbers['delta_error']:.4f}",
        f"{numbers['energy_retained']['overall']:.2%}".replace("%", " %"),
    )
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
