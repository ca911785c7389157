"""Measure `lensd web` with 100,000 files: its start, the time of pages, its memory.

Run it from the top of the tree with `python -m bench.web`. The ledger is generated with the blocks,
ranks and sizes of real models (tests/support/many_files.py); no daemon runs.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import psutil

from bench.sizes import machine
from tests.support import many_files
from tests.support.home_server import HomeServer
from tests.support.web import Web, serving

FILES = 100_000
ROUNDS = 5
PAGES = {
    "first page": "/",
    "search": "/table?search=harbor+sdxl",
    "folder": "/table?folder=loras%2Fstyle",
    "by ratio": "/table?sort=ratio",
    "page 1,500": "/table?page=1499",
    "savings": "/savings",
}


def main() -> int:
    print(machine())
    with tempfile.TemporaryDirectory(prefix="lensd-bench-") as name:
        server = HomeServer(Path(name))
        many_files.write_ledger(server.state, server.loras, FILES)
        began = time.monotonic()
        with serving(server.config) as web:
            print(f"{FILES:,} files: ready after {time.monotonic() - began:.1f} s")
            for page, path in PAGES.items():
                print(f"  {page:11} {fastest(web, path):.2f} s")
            megabytes = psutil.Process(web.process.pid).memory_info().rss / 1e6
            print(f"  {'memory':11} {megabytes:.0f} MB")
    return 0


def fastest(web: Web, path: str) -> float:
    """Seconds until the whole answer is there; the smallest of several rounds."""
    found = []
    for _ in range(ROUNDS):
        began = time.monotonic()
        web.get(path)
        found.append(time.monotonic() - began)
    return min(found)


if __name__ == "__main__":
    sys.exit(main())
