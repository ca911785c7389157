"""`worker.cluster`: a real daemon, a real scheduler, and workers in processes of their own."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lensd import __version__
from tests.support.dask_cluster import DaskCluster
from tests.support.home_server import HomeServer, Seen, wait_until
from tests.support.running import Line, RunningDaemon

pytestmark = pytest.mark.slow


ENDS = ("file.compressed", "file.failed", "file.quarantined")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskCluster]:
    """With three workers."""
    with DaskCluster(tmp_path_factory.mktemp("dask"), [(), (), ()]) as cluster:
        yield cluster


def _ends(daemon: RunningDaemon, count: int) -> list[Line]:
    """The next ends of files."""
    ends: list[Line] = []
    while len(ends) < count:
        ends.append(daemon.wait_for(lambda line: line["event"] in ENDS, "end of a file"))
    return ends


def test_the_bytes_are_those_of_this_machine(cluster: DaskCluster, tmp_path: Path) -> None:
    """Whatever worker computes a file, and where its bytes travel or its path is shared."""
    sums: list[dict[str, str]] = []
    for number, worker in enumerate(
        ({}, {"cluster": cluster.address}, {"cluster": cluster.address, "cluster_paths": "shared"})
    ):
        top = tmp_path / str(number)
        top.mkdir()
        server = HomeServer(top)
        server.configure(worker=worker)
        with server.daemon() as daemon:
            daemon.wait_for_event("daemon.ready")
            for seed in range(6):
                server.drop(f"{seed}.safetensors", seed=seed)
            assert {line["event"] for line in _ends(daemon, 6)} == {"file.compressed"}
            assert daemon.stop() == 0
        sums.append({path.name: _sha256(path) for path in server.loras.iterdir()})
        assert [] == server.temporaries()
    assert sums[0] == sums[1] == sums[2]


def test_check_tells_what_the_workers_are(cluster: DaskCluster, tmp_path: Path) -> None:
    """Or why there is none."""
    server = HomeServer(tmp_path)
    server.configure(worker={"cluster": cluster.address})
    done = server.lensd("check")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f": lensd {__version__}, torch ") == 3
    server.configure(worker={"cluster": "tcp://127.0.0.1:1"})
    done = server.lensd("check")
    assert done.returncode == 5
    assert "tcp://127.0.0.1:1 cannot be reached" in done.stderr


def test_a_daemon_without_a_cluster_knows_nothing_of_it(tmp_path: Path) -> None:
    """No module of Dask is imported, and none of the cluster's."""
    server = HomeServer(tmp_path)
    names = "dask|distributed|lensd.worker.cluster"
    program = (
        "import sys, re; from lensd.cli import main\n"
        "try: main(sys.argv[1:], standalone_mode=False)\n"
        f"finally: print([m for m in sys.modules if re.match('({names})', m)], file=sys.stderr)"
    )
    server.drop("one.safetensors", seed=1)
    done = subprocess.run(
        [sys.executable, "-c", program, "once", "-c", server.config],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert "file.compressed" in done.stdout, done.stderr
    assert done.stderr.splitlines()[-1] == "[]"


# In a Dask worker, which may run this twice: one byte of each output is another one.
CORRUPT = """
from lensd.worker.cluster import task
task.honest = getattr(task, "honest", task.answer)
def answer(*arguments):
    line, output = task.honest(*arguments)
    return line, output[:-1] + bytes([output[-1] ^ 1])
task.answer = answer
"""


def test_a_wrong_output_is_refused_and_another_worker_does_the_job(tmp_path: Path) -> None:
    """Where all workers are wrong, the file is set aside, and its original stays."""
    preload = ("--preload", CORRUPT)
    server = HomeServer(tmp_path)
    with DaskCluster(tmp_path / "dask", [preload, preload]) as wrong:
        server.configure(worker={"cluster": wrong.address})
        with server.daemon() as daemon:
            daemon.wait_for_event("daemon.ready")
            path = server.drop("one.safetensors", seed=1).path
            before = Seen.of(path)
            (end,) = _ends(daemon, 1)
            assert (end["event"], end["reason"]) == ("file.quarantined", "wrong_answer")
            assert "tcp://127.0.0.1" in end["message"]
            assert daemon.stop() == 0
        assert Seen.of(path) == before
        assert [] == server.temporaries()
        assert not server.archived(path).exists()
    with DaskCluster(tmp_path / "dask2", [preload, ()]) as half:
        server.configure(worker={"cluster": half.address})
        with server.daemon() as daemon:
            daemon.wait_for_event("daemon.ready")
            paths = [server.drop(f"{n}.safetensors", seed=n).path for n in range(2, 6)]
            originals = {path: _sha256(path) for path in paths}
            assert {end["event"] for end in _ends(daemon, 4)} == {"file.compressed"}
            assert daemon.stop() == 0
        assert originals == {path: _sha256(server.archived(path)) for path in paths}


def test_jobs_wait_for_a_scheduler_that_is_away(tmp_path: Path) -> None:
    """Status and log tell it. When the scheduler comes, they continue."""
    server = HomeServer(tmp_path)
    cluster = DaskCluster(tmp_path / "dask", [()])
    server.configure(worker={"cluster": cluster.address})
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        path = server.drop("one.safetensors", seed=1).path
        line = daemon.wait_for_event("daemon.degraded")
        assert (line["reason"], line["path"]) == ("cluster_unavailable", cluster.address)
        assert "cannot be reached" in line["message"]
        wait_until(lambda: cluster.address in server.lensd("status").stdout, "noted after the line")
        with cluster:
            assert daemon.wait_for_file(path)["event"] == "file.compressed"
            daemon.wait_for_event("daemon.recovered")
            assert daemon.stop() == 0


def test_this_machine_computes_while_the_cluster_is_away(tmp_path: Path) -> None:
    """With `cluster_fallback: local`; no line says that something waits."""
    server = HomeServer(tmp_path)
    server.configure(worker={"cluster": "tcp://127.0.0.1:1", "cluster_fallback": "local"})
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        paths = [server.drop(f"{n}.safetensors", seed=n).path for n in range(3)]
        assert {end["event"] for end in _ends(daemon, 3)} == {"file.compressed"}
        assert daemon.stop() == 0
    assert all(server.archived(path).exists() for path in paths)
    assert "daemon.degraded" not in {line["event"] for line in daemon.lines}


def test_once_ends_with_an_error_that_names_the_scheduler(tmp_path: Path) -> None:
    """It does not wait."""
    server = HomeServer(tmp_path)
    server.configure(worker={"cluster": "tcp://127.0.0.1:1"})
    path = server.drop("one.safetensors", seed=1).path
    before = Seen.of(path)
    done = server.lensd("once")
    assert done.returncode == 5
    assert "tcp://127.0.0.1:1" in done.stderr
    assert Seen.of(path) == before


class _Killer(threading.Thread):
    """Kills a worker every few seconds; at one time the scheduler, which is started again."""

    def __init__(self, cluster: DaskCluster) -> None:
        super().__init__(daemon=True)
        self._cluster = cluster
        self._rng = random.Random(16)  # noqa: S311
        self.ended = threading.Event()
        self.kills = 0

    def run(self) -> None:
        while not self.ended.wait(self._rng.uniform(2, 4)):
            self.kills += 1
            if self.kills == 3:
                self._cluster.kill_scheduler()
                self._cluster.start_scheduler()
            else:
                self._cluster.kill_a_worker(self._rng)


def _real(request: pytest.FixtureRequest) -> list[Path]:
    """The files of real people that lensd compresses, where they are."""
    with contextlib.suppress(pytest.skip.Exception):
        folder = request.getfixturevalue("shared") / "corpus"
        return sorted(p for p in folder.glob("*.safetensors") if "analog_svd" not in p.name)
    return []


def _is_done(server: HomeServer) -> bool:
    status = server.status()
    return not (status["queued"] or status["running"] or status["waiting"])


@pytest.mark.fault("killed")
def test_every_file_is_compressed_once_while_all_of_them_die(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Workers at random, the scheduler and the daemon once each; every original is bit-exact."""
    server = HomeServer(tmp_path)
    sources = _real(request)
    sources += [server.make(f"{n:02}.safetensors", seed=n).path for n in range(40 - len(sources))]
    originals = {server.loras / path.name: _sha256(path) for path in sources}
    with DaskCluster(tmp_path / "dask", [(), (), ()]) as cluster:
        server.configure(worker={"cluster": cluster.address})
        killer = _Killer(cluster)
        with server.daemon() as daemon:
            daemon.wait_for_event("daemon.ready")
            killer.start()
            for path in sources:
                shutil.copyfile(path, server.loras / path.name)
            _ends(daemon, 12)
            daemon.kill()
        with server.daemon() as daemon:
            daemon.wait_for_event("daemon.ready")
            wait_until(lambda: killer.kills > 3 and _is_done(server), "the end of the queue")
            killer.ended.set()
            killer.join()
            assert daemon.stop() == 0
    with contextlib.closing(sqlite3.connect(server.state / "ledger.sqlite3")) as ledger:
        rows = ledger.execute("SELECT path, outcome, count(*) FROM files GROUP BY path, outcome")
        outcomes = {(os.fsdecode(path), outcome): count for path, outcome, count in rows}
    assert outcomes == {(path.name, "compressed"): 1 for path in originals}
    assert {path: _sha256(server.archived(path)) for path in originals} == originals
    assert [] == server.temporaries()
    assert not list((server.archive / "rescued").rglob("*"))
