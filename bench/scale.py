"""Measure the daemon with 0, 1,000 and 100,000 watched files: start, rescan, memory, idle CPU.

Run it from the top of the tree with `python -m bench.scale`. For a quick run, give other numbers of
files and seconds: `python -m bench.scale --files 0 2000 --idle 5`. A real daemon watches a
temporary folder; the numbers are those of the kernel for its process.

- `known`: the ledger has a row for each file; the files are in folders of 1,000 files each
- `one folder`: the same files in a single folder
- `lost`: the ledger is lost; lensd recognizes files by their marks, originals by their paths
- `new`: no ledger and no archive; the files exist when lensd starts for the first time

The rescan is the one after a watched folder was missing and is back, which searches all of it. It
ends when the process is idle. CPU seconds are of all threads of the process, with a resolution of
10 ms. Without arguments, all numbers go to `bench/results/scale.json`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench.memory import resident
from bench.sizes import machine
from lensd import __version__
from lensd.store.identity import Identity
from lensd.store.ledger import Ledger, Outcome
from lensd.store.ledger.entry import Entry
from tests.support.architectures import Module
from tests.support.home_server import HomeServer
from tests.support.running import RunningDaemon

FILES = (0, 1_000, 100_000)
PER_FOLDER = 1_000
IDLE_SECONDS = 60.0
QUIET_SECONDS = 1.0  # a process that does no work for so long is idle
LATENCIES = 9
DROPPED = 200
PATIENCE = 900.0
RESULTS = Path(__file__).with_name("results") / "scale.json"
TINY = (Module("unet", "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q", 32, 32),)
HEAD = (
    f"{'files':>8} {'ledger':11}{'ready s':>9}{'CPU s':>8}{'rescan s':>10}{'CPU s':>8}"
    f"{'MB ready':>10}{'MB later':>10}{'MB most':>9}{'idle CPU %':>12}{'threads':>9}{'watches':>9}"
)


@dataclass(frozen=True, slots=True)
class Cost:
    """The costs of one number of files. `ready` counts from the start of the process."""

    files: int
    ledger: str
    ready_seconds: float
    ready_cpu: float
    rescan_seconds: float
    rescan_cpu: float
    mb_ready: float  # resident memory; 1 MB = 10^6 bytes
    mb_later: float  # after the rescan and the idle time
    mb_most: float
    idle_percent: float  # of one core
    threads: int
    watches: int

    def __str__(self) -> str:
        return (
            f"{self.files:8} {self.ledger:11}{self.ready_seconds:9.2f}{self.ready_cpu:8.2f}"
            f"{self.rescan_seconds:10.2f}{self.rescan_cpu:8.2f}{self.mb_ready:10.1f}"
            f"{self.mb_later:10.1f}{self.mb_most:9.1f}{self.idle_percent:12.3f}"
            f"{self.threads:9}{self.watches:9}"
        )


class Home:
    """A home server with one small compressed file, from which all other files are made."""

    def __init__(self, top: Path) -> None:
        self.server = HomeServer(top)
        self.server.configure(defaults={"min_saving": 0.0})
        with self.server.daemon() as daemon:
            daemon.wait_for_event("daemon.ready", 60)
            path = self.server.drop("first.safetensors", modules=TINY).path
            daemon.wait_for_file(path, "file.compressed")
        ledger = Ledger(str(self.server.state), __version__)
        self._first = next(ledger.files.with_outcome(Outcome.COMPRESSED))
        ledger.close()
        self._output = path.read_bytes()
        self._original = self.server.archived(path).read_bytes()
        self.clear()

    def clear(self) -> None:
        """Remove files, originals and ledger."""
        shutil.rmtree(self.server.loras)
        self.server.loras.mkdir()
        self.forget()

    def forget(self) -> None:
        """Remove originals and ledger."""
        for folder in (self.server.archive, self.server.state):
            shutil.rmtree(folder)
            folder.mkdir()

    def fill(self, files: int, per_folder: int) -> None:
        """Write compressed files, their originals, and the rows of the ledger for them."""
        ledger = Ledger(str(self.server.state), __version__)
        ledger.roots.add(str(self.server.loras), self.server.loras.name)
        with ledger.together():  # one commit for all of them
            for number in range(files):
                relative = f"{number // per_folder:03}/{number:06}.safetensors"
                self._add(ledger, number, relative if files > per_folder else relative[4:])
        ledger.close()

    def _add(self, ledger: Ledger, number: int, relative: str) -> None:
        first, target = self._first, self.server.loras / relative
        archived = self.server.archived(target)
        original = self._original[:-4] + number.to_bytes(4, "little")
        sha256_in = hashlib.sha256(original).hexdigest()
        output = self._output.replace((first.sha256_in or "").encode(), sha256_in.encode())
        sha256_out = hashlib.sha256(output).hexdigest()
        for path, content in ((archived, original), (target, output)):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        _record(ledger, first, number, relative, target, archived, sha256_in, sha256_out)


def _record(
    ledger: Ledger,
    first: Entry,
    number: int,
    relative: str,
    target: Path,
    archived: Path,
    sha256_in: str,
    sha256_out: str,
) -> None:
    job_id = f"{number:016x}"
    own = {"path": str(target), "job_id": job_id, "archive_path": str(archived)}
    ledger.files.record(
        job_id,
        first.root,
        first.watch,
        relative,
        Identity.of(archived.lstat()),
        outcome=Outcome.COMPRESSED,
        staged=Identity.of(target.lstat()),
        sha256_in=sha256_in,
        sha256_out=sha256_out,
        bytes_in=first.bytes_in,
        bytes_out=first.bytes_out,
        archive_path=str(archived),
        archive_method=first.archive_method,
        line=(first.line or {}) | own | {"sha256_in": sha256_in, "sha256_out": sha256_out},
        emitted=1,
        published=time.time(),
    )


def measure(server: HomeServer, files: int, ledger: str, idle: float) -> Cost:
    """Start the daemon, cause a rescan, and let the daemon idle."""
    began = time.monotonic()
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready", PATIENCE)
        ready, pid = time.monotonic() - began, daemon.process.pid
        ready_cpu, at_ready = cpu(pid), megabytes(pid, "VmRSS")
        wait_until_idle(pid)
        rescan = measure_rescan(daemon, server)
        before = cpu(pid)
        time.sleep(idle)
        return Cost(
            files,
            ledger,
            ready,
            ready_cpu,
            *rescan,
            at_ready,
            megabytes(pid, "VmRSS"),
            megabytes(pid, "VmHWM"),
            100 * (cpu(pid) - before) / idle,
            len(os.listdir(f"/proc/{pid}/task")),
            watches(pid),
        )


def measure_rescan(daemon: RunningDaemon, server: HomeServer) -> tuple[float, float]:
    """Return wall and CPU seconds of a search of the folder."""
    pid, aside = daemon.process.pid, server.top / "aside"
    server.loras.rename(aside)
    daemon.wait_for_event("daemon.degraded", 60)
    aside.rename(server.loras)
    daemon.wait_for_event("daemon.recovered", PATIENCE)
    began, before = time.monotonic(), cpu(pid)
    return wait_until_idle(pid) - began, cpu(pid) - before


def wait_until_idle(pid: int) -> float:
    """Wait until a process was idle for QUIET_SECONDS; return when it last worked (monotonic)."""
    last, known = time.monotonic(), running_ns(pid)
    while time.monotonic() - last < QUIET_SECONDS:
        time.sleep(0.01)
        now = running_ns(pid)
        if now - known > 2_000_000:  # the timers of an idle daemon take less
            last = time.monotonic()
        known = now
    return last


def running_ns(pid: int) -> int:
    """Return the nanoseconds for which a process's first thread ran."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])


def cpu(pid: int) -> float:
    """Return the CPU seconds of all threads, in user and kernel mode."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def megabytes(pid: int, field: str) -> float:
    return resident(pid, field) * 2**20 / 1e6


def watches(pid: int) -> int:
    """Return how many folders the kernel watches for a process."""
    infos = Path(f"/proc/{pid}/fdinfo").iterdir()
    return sum(info.read_text().count("\ninotify wd:") for info in infos)


def latencies(daemon: RunningDaemon, server: HomeServer) -> list[float]:
    """Return the seconds from closing a small file to its publication, minus the quiet time."""
    quiet = json.loads(server.config.read_text())["settle"]["quiet_seconds"]
    found = []
    for number in range(LATENCIES + 1):
        content = server.make("source", seed=number).path.read_bytes()
        path = server.loras / f"latency{number}.safetensors"
        path.write_bytes(content)
        closed, inode = time.monotonic(), path.stat().st_ino
        while path.stat().st_ino == inode:
            time.sleep(0.001)
        found.append(time.monotonic() - closed - quiet)
        daemon.wait_for_file(path, "file.compressed")
    return found[1:]  # the worker starts with the first file


def together(daemon: RunningDaemon, server: HomeServer) -> dict[str, float]:
    """Move in many small files at once; return files per minute and the daemon's CPU seconds."""
    sources = [server.make(f"many{n}.safetensors", seed=n).path for n in range(DROPPED)]
    before, began = cpu(daemon.process.pid), time.monotonic()
    for path in sources:
        server.move_in(path)
    for _ in sources:
        daemon.wait_for_event("file.compressed", PATIENCE)
    took = time.monotonic() - began
    return {
        "files": DROPPED,
        "seconds": took,
        "files_per_minute": 60 * DROPPED / took,
        "daemon_cpu": cpu(daemon.process.pid) - before,
    }


def traffic(server: HomeServer) -> dict[str, Any]:
    """Measure new files, in addition to those that exist."""
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready", PATIENCE)
        return {"latencies": latencies(daemon, server), "together": together(daemon, server)}


def costs(home: Home, files: int, idle: float) -> Iterator[Cost]:
    """Measure one number of files with each kind of ledger."""
    home.fill(files, PER_FOLDER)
    yield measure(home.server, files, "known", idle)
    if files:
        shutil.rmtree(home.server.state)
        yield measure(home.server, files, "lost", idle)
        home.forget()
        yield measure(home.server, files, "new", idle)
    if files > PER_FOLDER:
        home.clear()
        home.fill(files, files)
        yield measure(home.server, files, "one folder", idle)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.scale")
    parser.add_argument("--files", type=int, nargs="+", default=FILES, metavar="N")
    parser.add_argument("--idle", type=float, default=IDLE_SECONDS, metavar="SECONDS")
    chosen = parser.parse_args(arguments)
    results: dict[str, Any] = {"machine": machine(), "standing": []}
    print(results["machine"], HEAD, sep="\n", flush=True)
    with tempfile.TemporaryDirectory(prefix="lensd-bench-") as folder:
        home = Home(Path(folder))
        for files in chosen.files:
            home.clear()
            for found in costs(home, files, chosen.idle):
                print(found, flush=True)
                results["standing"].append(asdict(found))
        results["traffic"] = traffic(home.server)
    print(*report(results["traffic"], chosen.files[-1]), sep="\n")
    if not arguments:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(results, indent=1) + os.linesep, encoding="utf-8")
    return 0


def report(found: dict[str, Any], files: int) -> Iterator[str]:
    times, many = found["latencies"], found["together"]
    yield (
        f"with {files} other files, a small file is published {median(times):.3f} s "
        f"[{min(times):.3f} .. {max(times):.3f}] after its close and the quiet time"
    )
    yield (
        f"{many['files']} small files at once: {many['files_per_minute']:.0f} per minute; the "
        f"daemon takes {many['daemon_cpu']:.1f} s of CPU in {many['seconds']:.1f} s"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
