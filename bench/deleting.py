"""Measure what looks at all of 100,000 files: `restore`, `prune`, the look for deleted files.

    python -m bench.deleting                 100,000 files, of which a tenth is deleted
    python -m bench.deleting --files 10000   a smaller folder

The files are small, so that the figures are those of the ledger and of the folders. Seconds are of
the wall; each command is a process of its own, whose start they contain.
"""

from __future__ import annotations

import argparse
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

from bench.scale import PER_FOLDER, Home
from bench.sizes import machine
from lensd import __version__
from lensd.jobs.gone_files import GoneFiles
from lensd.store.archive import Archive
from lensd.store.ledger import Ledger
from lensd.watcher import root_identity
from tests.support.aging import DAY
from tests.support.home_server import HomeServer

FILES = 100_000
SHARE = 10  # one of so many files is deleted
# Runs a command and prints its seconds of CPU and its peak memory in kB. A process of its own: the
# peak of a child is never below the memory of the process that started it.
COST = """
import os, sys
_, _, usage = os.wait4(os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ), 0)
print()
print(usage.ru_utime + usage.ru_stime, usage.ru_maxrss)
"""


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.deleting")
    parser.add_argument("--files", type=int, default=FILES, metavar="N")
    files = parser.parse_args(arguments).files
    print(f"{machine()}; {files:,} files", flush=True)
    with tempfile.TemporaryDirectory(prefix="lensd-bench-") as folder:
        home = Home(Path(folder))
        home.fill(files, PER_FOLDER)
        for text in _measure(home.server):
            print(text, flush=True)
    return 0


def _measure(server: HomeServer) -> Iterator[str]:
    _know_the_folder(server)
    yield f"look, nothing deleted: {_look(server)}"
    paths = sorted(server.loras.rglob("*.safetensors"))
    yield f"restore of one file: {_run(server, 'restore', str(paths[-1]))}"
    for path in paths[::SHARE]:
        path.unlink()
    for path in paths[1 :: SHARE * 100]:
        server.archived(path).unlink()
    yield f"look, {len(paths[::SHARE]):,} files deleted: {_look(server)}"
    yield f"look, no news: {_look(server)}"
    yield f"status: {_run(server, 'status')}"
    yield f"prune --deleted --dry-run: {_run(server, 'prune', '--deleted', '--dry-run')}"
    yield f"prune --deleted: {_run(server, 'prune', '--deleted')}"
    _age(server)
    held = server.status()["totals"]["held_by_archive"]
    server.configure(max_size=f"{held * (SHARE - 1) // SHARE}B")
    yield f"prune, max_size, --dry-run: {_run(server, 'prune', '--dry-run')}"
    yield f"prune, max_size: {_run(server, 'prune')}"
    yield f"prune, max_size, nothing to do: {_run(server, 'prune')}"


def _know_the_folder(server: HomeServer) -> None:
    """As the first start does."""
    with closing(Ledger(str(server.state), __version__)) as ledger:
        found = root_identity.probe(str(server.loras))
        ledger.roots.set_identity(str(server.loras), *found.identity)


def _look(server: HomeServer) -> str:
    """One look of the daemon."""
    events: list[object] = []
    archive = Archive(str(server.archive), {server.loras.name: str(server.loras)})
    with closing(Ledger(str(server.state), __version__)) as ledger:
        gone = GoneFiles(ledger, archive, events.append)
        return f"{_seconds(gone.look)}, {len(events):,} lines in the log"


def _seconds(act: Callable[[], object]) -> str:
    began, before = time.monotonic(), time.process_time()
    act()
    return f"{time.monotonic() - began:.2f} s ({time.process_time() - before:.2f} s of CPU)"


def _run(server: HomeServer, verb: str, *arguments: str) -> str:
    """Seconds, peak memory and last line of a command."""
    command = [sys.executable, "-m", "lensd", verb, "-c", str(server.config), *arguments]
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-S", "-c", COST, *command], check=True, capture_output=True, text=True
    )
    took = time.monotonic() - began
    *_, last = ["", *done.stderr.splitlines()]
    cpu, peak = map(float, done.stdout.splitlines()[-1].split())
    return f"{took:.2f} s ({cpu:.2f} s of CPU), {peak / 1000:.0f} MB; {last}"


def _age(server: HomeServer) -> None:
    """All files were compressed a month ago."""
    update = "UPDATE files SET published = published - ?1, observed = observed - ?1"
    with closing(sqlite3.connect(server.state / "ledger.sqlite3")) as db, db:
        db.execute(update, [30 * DAY])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
