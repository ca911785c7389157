"""Measure the time of `lensd report`: 100,000 log lines as tables, 5,000 files as a page.

`python -m bench.report --manifest 100000 1000000` measures time and memory with manifests of `lensd
batch` of so many rows; a million takes 2.5 GB in the folders for temporary files.

Run it from the top of the tree with `python -m bench.report`. The logs are generated with the
blocks, ranks and sizes of real models (tests/support/many_files.py); all lines are of compressed
files. The page is opened in Chromium if that is installed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from bench.memory import resident
from bench.sizes import machine
from tests.support import many_files

ROUNDS = 5
LINES = 100_000
FILES = 5_000
DIFFERENT = 1_000  # rows whose measures differ, since it takes long to make them up
OUTPUTS: tuple[tuple[str, ...], ...] = ((), ("--json",), ("--csv",))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--manifest", type=int, nargs="+", metavar="ROWS")
    print(machine())
    if counts := parser.parse_args().manifest:
        report_manifests(counts)
    else:
        report_logs()
    return 0


def report_manifests(counts: Sequence[int]) -> None:
    with tempfile.TemporaryDirectory(prefix="lensd-bench-") as name:
        for objects in counts:
            manifest = Path(name, "manifest.jsonl")
            with manifest.open("w", encoding="utf-8") as file:
                file.writelines(f"{json.dumps(row)}\n" for row in rows(objects))
            print(f"a manifest of {objects:,} rows, {manifest.stat().st_size / 1e6:,.0f} MB")
            for output in OUTPUTS:
                seconds, mebibytes = most_memory(manifest, *output)
                kind = output[0] if output else "tables"
                print(f"  {kind:8} {seconds:6.1f} s {mebibytes:6.0f} MiB", flush=True)


def rows(objects: int) -> Iterator[many_files.Line]:
    """Rows of `lensd batch`, in the order of their paths; each twentieth is not of an output."""
    some = list(many_files.lines(DIFFERENT))
    for number in range(objects):
        row = some[number % DIFFERENT]
        outcome = row["event"].removeprefix("file.")
        row = row | {"path": f"/source/{number:08}.safetensors", "outcome": outcome}
        yield {name: value for name, value in row.items() if name not in many_files.DAEMON_ONLY}


def most_memory(manifest: Path, *arguments: str) -> tuple[float, float]:
    """The seconds of a report, and the most memory of its process in MiB."""
    command = [sys.executable, "-m", "lensd", "report", "--manifest", str(manifest), *arguments]
    began, most = time.monotonic(), 0.0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            with suppress(LookupError):  # it has ended
                most = max(most, resident(process.pid, "VmHWM"))
            time.sleep(0.02)
    if process.returncode:
        raise RuntimeError(f"lensd report ended with {process.returncode}")
    return time.monotonic() - began, most


def report_logs() -> None:
    with tempfile.TemporaryDirectory(prefix="lensd-bench-") as name:
        folder = Path(name)
        log = many_files.write_log(folder / "log", LINES, troubles=0.0)
        megabytes = log.stat().st_size / 1e6
        print(f"{LINES:,} lines, {megabytes:.0f} MB, all of compressed files")
        for output in OUTPUTS:
            seconds = fastest(folder, "--log", "log", *output)
            print(f"  {output[0] if output else 'tables':8} {seconds}")
        many_files.write_log(log, FILES)
        print(f"{FILES:,} files, {log.stat().st_size / 1e6:.0f} MB")
        page = folder / "page.html"
        seconds = fastest(folder, "--log", "log", "--html", page.name, "--force")
        print(f"  --html   {seconds}, {page.stat().st_size / 1e6:.2f} MB")
        open_page(page, folder)


def fastest(folder: Path, *arguments: str) -> str:
    """Return the smallest wall and CPU time of several rounds, including the start of Python."""
    return "{:5.2f} s (CPU {:.2f} s)".format(
        *map(min, zip(*(timed(folder, *arguments) for _ in range(ROUNDS)), strict=True))
    )


def timed(folder: Path, *arguments: str) -> tuple[float, float]:
    command = [sys.executable, "-m", "lensd", "report", *arguments]
    began, cpu = time.monotonic(), cpu_of_children()
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return time.monotonic() - began, cpu_of_children() - cpu


def cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def open_page(page: Path, folder: Path) -> None:
    """Print how long Chromium takes until the page is usable."""
    from tests.support.browser import Browser, NoBrowser, chromium

    def usable(browser: Browser) -> float:
        return statistics.median(browser.open(page) for _ in range(ROUNDS))

    try:
        with chromium(folder / "profile") as browser:
            print(f"  in Chromium, usable after {usable(browser):.2f} s")
    except NoBrowser as missing:
        print(f"  not opened: {missing}")


if __name__ == "__main__":
    sys.exit(main())
