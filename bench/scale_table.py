"""Print the tables of docs/scale.md: from what `bench.collection` measured, to 10^7 files.

Run it from the top of the tree with `python -m bench.scale_table`. A collection takes as long as
the slower of two: the cores, which share the processor time, and the network of the machines, which
reads each file once and writes each output once. Neither start-up nor failures count.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

RESULTS = Path(__file__).with_name("results") / "collection.json"
MEGABYTES = 150.0


class Machines(NamedTuple):
    """`gigabits`: of the network of one machine, a second."""

    number: int
    cores: int
    gigabits: float

    def __str__(self) -> str:
        return f"{self.number} x {self.cores} cores, {self.gigabits:g} Gbit/s"


HOME, SERVER = Machines(1, 2, 1.0), Machines(1, 16, 10.0)
FILES = {
    10**3: (HOME, SERVER),
    10**5: (HOME, SERVER, Machines(8, 16, 10.0)),
    10**7: (SERVER, Machines(16, 16, 10.0), Machines(64, 16, 25.0)),
}


def measured() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8"))
    return found


def one_core() -> Iterator[str]:
    """Yield what one file of 151 MB takes of one core, by the part that takes it."""
    found = measured()
    large = found["large"]
    cpu, size = large["cpu_seconds"], large["bytes_in"]
    yield "| | of one core |"
    yield "|---|---:|"
    yield f"| processor time a file | {cpu:.2f} s |"
    yield f"| files | {1 / cpu:.2f}/s, {3600 / cpu:,.0f} an hour |"
    yield f"| read | {size / cpu / 1e6:.0f} MB/s |"
    yield f"| written | {large['bytes_out'] / cpu / 1e6:.1f} MB/s |"
    yield f"| so 10 Gbit/s keep busy | {1.25e9 / (size / cpu):.0f} cores |"
    yield f"| of the time a file: sha256 of the original | {large['sha256']:.2f} s |"
    yield f"| the work around the computation, of any file | {found['tiny']['cpu_seconds']:.3f} s |"
    yield ""
    yield f"A LoRA for SD 1.5 of rank 128, {size / 1e6:.0f} MB; {found['machine']}."


def client() -> Iterator[str]:
    """Yield what the process that lists and keeps the manifest takes."""
    found = measured()
    known, row = found["known"], found["tiny"]["row_bytes"]
    files = known["files"]
    yield "| | |"
    yield "|---|---:|"
    yield f"| a second run over {files:,} files with nothing to do | {known['seconds']:.1f} s |"
    yield f"| its memory | {known['mb']:.0f} MB |"
    yield f"| a row of a manifest in JSON lines | {row:,.0f} bytes |"
    yield f"| that manifest for 10^7 files | {row * 1e7 / 1e9:.0f} GB |"


def table() -> Iterator[str]:
    """Yield hours, bytes and requests for each number of files and machines."""
    large = measured()["large"]
    cpu, ratio = large["cpu_seconds"], large["bytes_in"] / large["bytes_out"]
    cpu *= MEGABYTES * 1e6 / large["bytes_in"]
    yield "| files | machines | core hours | time | bound by | read | written |"
    yield "|---:|---|---:|---:|---|---:|---:|"
    for files, choices in FILES.items():
        bytes_in = files * MEGABYTES * 1e6
        bytes_out = bytes_in / ratio
        for machines in choices:
            by_cores = files * cpu / (machines.number * machines.cores)
            wires = machines.number * machines.gigabits * 1e9 / 8
            by_network = bytes_in / wires  # reading and writing go in two directions
            seconds = max(by_cores, by_network)
            bound = "cores" if by_cores >= by_network else "network"
            core_hours = f"{files * cpu / 3600:,.1f}"
            yield (
                f"| {files:,} | {machines} | {core_hours} | {_time(seconds)} | {bound} | "
                f"{_size(bytes_in)} | {_size(bytes_out)} |"
            )


def _time(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds < 3600 else f"{seconds / 3600:,.1f} h"


def _size(count: float) -> str:
    return f"{count / 1e12:,.1f} TB" if count >= 1e12 else f"{count / 1e9:,.0f} GB"


def main() -> int:
    for part in (one_core, client, table):
        print(*part(), "", sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
