"""Daemon and two workers are killed again and again, at random moments, over 50 files."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import shutil
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from tests.support import suites
from tests.support.home_server import HomeServer, wait_until
from tests.support.running import DaemonError, RunningDaemon

pytestmark = pytest.mark.slow

FILES = 50 if suites.FULL else 16
KILLS = 200 if suites.FULL else 40
# Of the corpus: what is kept (no gain).
UNCOMPRESSED = {"cloneofsimo_analog_svd_rank4"}


@dataclass
class Run:
    """One home server through all its daemons."""

    server: HomeServer
    dice: random.Random
    originals: dict[Path, str] = field(default_factory=dict)
    kills: Counter[str] = field(default_factory=Counter)
    lines: Counter[tuple[str, str]] = field(default_factory=Counter)

    def drop(self, source: Path, name: str) -> None:
        """Write it as a copy does, so that kills hit its arrival, too."""
        path = self.server.loras / name
        self.originals[path] = hashlib.sha256(source.read_bytes()).hexdigest()
        shutil.copyfile(source, path)

    def live_and_be_killed(self, sources: Iterator[tuple[Path, str]]) -> None:
        """One daemon, killed itself or bereft of its worker a few times."""
        with self.server.daemon() as daemon:
            with contextlib.suppress(DaemonError):
                daemon.wait_for_event("daemon.ready")
            while self.kills.total() < KILLS:
                source = next(sources, None) if self.dice.random() < 0.5 else None
                if source is not None:
                    self.drop(*source)
                time.sleep(self.dice.uniform(0, 2.0) ** 2 / 2)
                workers = _children(daemon.process.pid)
                if workers and self.dice.random() < 0.4:
                    worker = self.dice.choice(workers)
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(worker.pid, signal.SIGKILL)
                    self.kills["worker"] += 1
                    continue
                daemon.kill()
                self.kills["daemon"] += 1
                break
        self._count(daemon)

    def finish(self) -> None:
        """One daemon that nobody kills; files that lost their worker three times get a retry."""
        with self.server.daemon() as daemon:
            daemon.wait_for_event("daemon.ready")
            wait_until(lambda: self._have_ended("compressed", "quarantined"), "each has an end")
            self.server.lensd("retry")
            wait_until(lambda: self._have_ended("compressed"), "each is compressed")
            assert daemon.stop() == 0
        self._count(daemon)

    def _have_ended(self, *outcomes: str) -> bool:
        """Whether the newest row of each file is done, with one of these outcomes."""
        newest = "SELECT path, state, outcome, max(id) FROM files GROUP BY path"
        with contextlib.closing(sqlite3.connect(self.server.state / "ledger.sqlite3")) as ledger:
            rows = ledger.execute(newest).fetchall()
        ended = {os.fsdecode(p) for p, state, end, _ in rows if state == "done" and end in outcomes}
        return ended >= {path.name for path in self.originals}

    def _count(self, daemon: RunningDaemon) -> None:
        self.lines.update((line["event"], line.get("path", "")) for line in daemon.lines)


def _children(pid: int) -> list[psutil.Process]:
    """None of a process that has ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).children()
    return []


def _sources(server: HomeServer, corpus: list[Path]) -> Iterator[tuple[Path, str]]:
    yield from ((path, f"real-{path.name}") for path in corpus)
    for seed in range(FILES - len(corpus)):
        made = server.make(f"{seed}.safetensors", seed=seed, rank=32 if seed % 2 else 16)
        yield made.path, f"folder{seed % 3}-{seed}.safetensors"


def _real(request: pytest.FixtureRequest) -> list[Path]:
    with contextlib.suppress(pytest.skip.Exception):
        folder = request.getfixturevalue("shared") / "corpus"
        return [p for p in sorted(folder.glob("*.safetensors")) if p.stem not in UNCOMPRESSED]
    return []


@pytest.mark.fault("killed")
def test_kills_at_random_moments(
    tmp_path: Path, request: pytest.FixtureRequest, tell: Callable[[str], None]
) -> None:
    """Every original is in place or in the archive, bit-exact; every file compressed once."""
    seed = suites.seed(0)
    run = Run(HomeServer(tmp_path), random.Random(seed))  # noqa: S311
    run.server.configure(worker={"processes": 2})
    real = _real(request)
    sources = _sources(run.server, real)
    with run.server.daemon() as daemon:  # the folder is known before the first file comes
        daemon.wait_for_event("daemon.ready")
    while run.kills.total() < KILLS:
        run.live_and_be_killed(sources)
    for source in sources:
        run.drop(*source)
    run.finish()
    tell(
        f"{run.kills['daemon']} kills of the daemon, {run.kills['worker']} of the worker, "
        f"{len(run.originals)} files, {len(real)} of them real; dice {seed}"
    )
    _backoff(run, f"dice {seed}")


def _backoff(run: Run, dice: str) -> None:
    with contextlib.closing(sqlite3.connect(run.server.state / "ledger.sqlite3")) as ledger:
        rows = ledger.execute("SELECT path, outcome, count(*) FROM files GROUP BY path, outcome")
        outcomes = {(os.fsdecode(path), outcome): count for path, outcome, count in rows}
    for path, sha256 in run.originals.items():
        archived = run.server.archived(path)
        assert hashlib.sha256(archived.read_bytes()).hexdigest() == sha256, (path, dice)
        assert hashlib.sha256(path.read_bytes()).hexdigest() != sha256, (path, dice)
        assert archived.stat().st_nlink == 1, (path, dice)
        assert outcomes[path.name, "compressed"] == 1, (path, dice, outcomes)
        assert run.lines["file.compressed", str(path)] >= 1, (path, dice)
    assert len(run.originals) == FILES
    assert not run.server.temporaries(), dice
    assert not list((run.server.archive / "rescued").rglob("*")), dice
    assert {event for event, _ in run.lines} & {"file.failed", "file.rescued"} == set(), dice
