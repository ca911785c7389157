"""Measure the time of `lensd report`: 100,000 log lines as tables, 5,000 files as a page.

Run it from the top of the tree with `python -m bench.report`. The logs are generated with the
blocks, ranks and sizes of real models (tests/support/many_files.py); all lines are of compressed
files. The page is opened in Chromium if that is installed.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.sizes import machine
from tests.support import many_files

ROUNDS = 5
LINES = 100_000
FILES = 5_000


def main() -> int:
    print(machine())
    with tempfile.TemporaryDirectory(prefix="lensd-bench-") as name:
        folder = Path(name)
        log = many_files.write_log(folder / "log", LINES, troubles=0.0)
        megabytes = log.stat().st_size / 1e6
        print(f"{LINES:,} lines, {megabytes:.0f} MB, all of compressed files")
        for output in ((), ("--json",), ("--csv",)):
            seconds = fastest(folder, "--log", "log", *output)
            print(f"  {output[0] if output else 'tables':8} {seconds}")
        many_files.write_log(log, FILES)
        print(f"{FILES:,} files, {log.stat().st_size / 1e6:.0f} MB")
        page = folder / "page.html"
        seconds = fastest(folder, "--log", "log", "--html", page.name, "--force")
        print(f"  --html   {seconds}, {page.stat().st_size / 1e6:.2f} MB")
        open_page(page, folder)
    return 0


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
