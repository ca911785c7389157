"""Throughput with one and with two worker processes, for small and for real files.

Run it from the top of the tree with `python -m bench.pool`, on a quiet machine. `lensd once`
compresses 200 files of 2 MB, then 8 of 150 MB, each time in fresh folders. The seconds are those
from the start of the first worker process to the end of the last file; CPU seconds are those of
lensd and its workers, with their start, and of the cluster. `--processes 1 2 4` measures other
numbers, `--quick` a tenth of the small files. `--dask 2` adds a Dask cluster of two workers here,
whose worker processes have started before, and prints how many ms a file it takes longer than as
many processes.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench.sizes import machine
from tests.support.dask_cluster import DaskCluster
from tests.support.home_server import HomeServer

# In another process, so that torch is not loaded here. One file of each size is written, and the
# others are that one with other last values, so that no two are the same.
MAKE = """
import sys
from pathlib import Path
from tests.support.architectures import FAMILIES
from tests.support.realistic import write_lora
small, large = map(Path, sys.argv[1:])
modules = FAMILIES["sd15"]()
write_lora(small, modules=modules[:14], rank=32, effective_rank=8.0)
write_lora(large)
"""


class Batch(NamedTuple):
    """Files that are compressed together."""

    name: str
    source: Path
    number: int


class Measured(NamedTuple):
    """Of one batch."""

    seconds: float
    cpu_seconds: float
    files: int
    bytes_in: int


def main() -> int:
    parser = argparse.ArgumentParser(description="throughput by the number of worker processes")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--dask", type=int, metavar="WORKERS")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    print(machine())
    print("files                processes  seconds  files/s    MB/s  CPU s  cores")
    with tempfile.TemporaryDirectory(prefix="lensd-bench-") as folder:
        for batch in _make(Path(folder), 10 if arguments.quick else 1):
            found = _print_all(batch, Path(folder), arguments.processes)
            if arguments.dask:
                _print_dask(batch, Path(folder), arguments.dask, found.get(arguments.dask))
    return 0


def _make(folder: Path, divisor: int) -> Sequence[Batch]:
    small, large = folder / "small.safetensors", folder / "large.safetensors"
    subprocess.run([sys.executable, "-c", MAKE, str(small), str(large)], check=True)
    return Batch("small", small, 200 // divisor), Batch("large", large, 8)


def _print_all(batch: Batch, folder: Path, processes: Sequence[int]) -> dict[int, Measured]:
    results = {}
    for count in processes:
        with tempfile.TemporaryDirectory(dir=folder) as top:
            results[count] = measure(batch, Path(top), {"processes": count})
        _print_row(results[count], str(count))
    return results


def _print_dask(batch: Batch, folder: Path, workers: int, local: Measured | None) -> None:
    with (
        tempfile.TemporaryDirectory(dir=folder) as top,
        DaskCluster(Path(top) / "dask", [()] * workers) as cluster,
    ):
        for part in ("warm", "measured"):
            (Path(top) / part).mkdir()
        settings = {"cluster": cluster.address}
        measure(batch._replace(number=2 * workers), Path(top) / "warm", settings)
        before = cluster.processor_seconds()
        found = measure(batch, Path(top) / "measured", settings)
        used = found.cpu_seconds + cluster.processor_seconds() - before
        found = found._replace(cpu_seconds=used)
    _print_row(found, f"{workers} Dask")
    if local is not None:
        pairs = zip(found[:2], local[:2], strict=True)
        more, cpu = ((a - b) / found.files * 1000 for a, b in pairs)
        print(f"more than {workers} processes: {more:.0f} ms a file, CPU {cpu:.0f} ms a file")


def _print_row(found: Measured, where: str) -> None:
    name = f"{found.files} of {found.bytes_in / found.files / 1e6:.1f} MB"
    print(
        f"{name:<20} {where:>9} {found.seconds:8.1f} {found.files / found.seconds:8.2f} "
        f"{found.bytes_in / found.seconds / 1e6:7.0f} {found.cpu_seconds:6.1f} "
        f"{found.cpu_seconds / found.seconds:6.2f}",
        flush=True,
    )


def measure(batch: Batch, top: Path, worker: Mapping[str, Any]) -> Measured:
    """Compress copies of the file by `lensd once`."""
    server = HomeServer(top)
    server.configure(worker={**worker, "nice": 0})
    for number in range(batch.number):
        _copy(batch.source, server.loras / f"{number}.safetensors", number)
    before = _children_seconds()
    command = [sys.executable, "-m", "lensd", "once", "-c", str(server.config)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    cpu_seconds = _children_seconds() - before
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    ends = [line for line in lines if line["event"] == "file.compressed"]
    if len(ends) != batch.number:
        raise ValueError(f"{len(ends)} of {batch.number} files were compressed")
    first = next(line for line in lines if line["event"] == "worker.started")
    seconds = (_time(ends[-1]) - _time(first)).total_seconds()
    return Measured(seconds, cpu_seconds, len(ends), sum(line["bytes_in"] for line in ends))


def _copy(source: Path, target: Path, number: int) -> None:
    """The same file with its last 4 bytes replaced by a small number: values of one tensor."""
    data = bytearray(source.read_bytes())
    data[-4:] = (0x3C003C00 + number).to_bytes(4, "little")  # two float16 values near 1
    target.write_bytes(data)
    os.utime(target, (1e9, 1e9))


def _time(line: dict[str, str]) -> dt.datetime:
    return dt.datetime.fromisoformat(line["timestamp"])


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    sys.exit(main())
