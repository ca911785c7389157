"""1,000 files that appear bit by bit: no job before its writer is done, and none forgotten."""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.faults.half_written import QUIET, UNPROVEN, WRITERS, Case, SlowServer
from tests.support import suites
from tests.support.home_server import HomeServer
from tests.support.limits import PATIENCE
from tests.support.marks import needs_program
from tests.support.running import DaemonError, RunningDaemon

FILES = 1000
FEW = 150
AT_A_TIME = 16
TICK = 0.05  # of the clock that stamps files, and of the log's rounding


@pytest.fixture
def other_disk(tmp_path: Path) -> Iterator[Path]:
    memory = Path("/dev/shm")  # noqa: S108
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no other device in shared memory")
    folder = Path(tempfile.mkdtemp(dir=memory))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def http(tmp_path: Path) -> Iterator[SlowServer]:
    (tmp_path / "truth").mkdir()
    server = SlowServer(tmp_path / "truth")
    yield server
    server.stop()


@pytest.mark.slow
@pytest.mark.fault("half-written")
@needs_program("aria2c")
@needs_program("curl")
@needs_program("rsync")
def test_half_written_files(
    server: HomeServer, http: SlowServer, other_disk: Path, tell: Callable[[str], None]
) -> None:
    """Each kind of writer again and again, many at a time, the daemon restarted in between."""
    _skip_without_holes(server.elsewhere)
    server.configure(
        watch=[{"path": str(server.loras), "existing": "compress"}],
        defaults={"mode": "analyze"},
        settle={"quiet_seconds": QUIET, "unproven_seconds": UNPROVEN, "rescan_seconds": 2},
    )
    cases = _cases(server, http, other_disk)
    _run(server, cases)
    jobs = _jobs(server)
    wrong = [
        f"{case.kind}, {case.target.name}: {what}"
        for case in cases
        if (what := _wrong(case, [job for job in jobs if job.path == str(case.target)]))
    ]
    assert wrong == []
    counts = Counter(case.kind for case in cases)
    kinds = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    tell(f"{len(cases)} half-written files of {len(counts)} kinds of writers: {kinds}")


def _skip_without_holes(folder: Path) -> None:
    with (folder / "hole").open("w+b") as file:
        file.truncate(100_000)
        if os.lseek(file.fileno(), 0, os.SEEK_HOLE) == 100_000:
            pytest.skip("this filesystem does not tell holes")


def _cases(server: HomeServer, http: SlowServer, other_disk: Path) -> list[Case]:
    base = server.make("base.safetensors", seed=1).path.read_bytes()
    start = 8 + int.from_bytes(base[:8], "little")
    cases: list[Case] = []
    for number in suites.sample(range(FILES), FEW):
        data = bytearray(base)
        data[start], data[start + 2] = number % 256, number // 256  # the low bytes of two numbers
        truth = http.folder / f"{number}.safetensors"
        truth.write_bytes(data)
        kind = list(WRITERS)[len(cases) % len(WRITERS)]
        target = server.loras / truth.name
        cases.append(Case(kind, truth, target, http.url, other_disk, seed=number))
    return cases


def _write(case: Case) -> None:
    WRITERS[case.kind].write(case)
    changed = case.target.stat().st_ctime
    case.ended = max(changed, case.ended)


def _run(server: HomeServer, cases: list[Case]) -> None:
    """Two restarts while the writers are at work; then time for all that may still come."""
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        writing = [pool.submit(_write, case) for case in cases]
        with server.daemon() as daemon:
            _read_until(daemon, lambda: _share(writing) > 1 / 3, 600)
            daemon.stop()
        with server.daemon() as daemon:
            _read_until(daemon, lambda: _share(writing) > 2 / 3, 600)
            daemon.kill()
        with server.daemon() as daemon:
            _read_until(daemon, lambda: _share(writing) == 1, 600)
            for future in writing:  # a writer that failed leaves an incomplete file
                future.result()
            expected = {str(c.target): c.kind for c in cases if WRITERS[c.kind].expected != "cut"}
            _read_until(daemon, lambda: not _missing(server, expected), PATIENCE)
            assert _missing(server, expected) == {}
            _read_until(daemon, lambda: False, UNPROVEN + 2)  # what was cut off has had its chance


class Job(NamedTuple):
    """A row of the ledger: a line of the log may be lost with a killed daemon."""

    path: str
    outcome: str
    sha256_in: str | None
    settled: float


def _jobs(server: HomeServer) -> list[Job]:
    db = sqlite3.connect(f"file:{server.state}/ledger.sqlite3?mode=ro", uri=True)
    rows = db.execute("SELECT root, path, outcome, sha256_in, created FROM files").fetchall()
    db.close()
    return [Job(f"{os.fsdecode(r)}/{os.fsdecode(p)}", *rest) for r, p, *rest in rows]


def _outcome(kind: str | None) -> str:
    """A file of zeros has the alpha 0, which most programs apply as nothing."""
    return "skipped" if kind == "whole, all zeros" else "analyzed"


def _missing(server: HomeServer, expected: dict[str, str]) -> dict[str, str]:
    done = {job.path for job in _jobs(server) if job.outcome == _outcome(expected.get(job.path))}
    return {path: kind for path, kind in expected.items() if path not in done}


def _share(futures: list[Future[None]]) -> float:
    return sum(f.done() for f in futures) / len(futures)


def _read_until(daemon: RunningDaemon, holds: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not holds():
        try:
            daemon.wait_for(lambda _: holds(), "end", 0.2)
        except DaemonError:
            if daemon.process.poll() is not None:
                raise


def _wrong(case: Case, jobs: list[Job]) -> str | None:
    expected = WRITERS[case.kind].expected
    if expected == "cut":
        return f"a job though cut off: {jobs}" if jobs else None
    if [job.outcome for job in jobs] != [_outcome(case.kind)]:
        return f"not one job: {jobs}"
    [job] = jobs
    is_whole = "killed" not in case.kind and "cut" not in case.kind
    if job.sha256_in not in (None, _sha256(case.truth if is_whole else case.target)):
        return "not the whole bytes"
    needed = UNPROVEN if expected == "doubtful" else QUIET
    waited = job.settled - case.ended
    return f"a job {waited:.2f} s after its writer" if waited < needed - TICK else None


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
