"""A worker that is killed, hangs, or dies again and again costs attempts and nothing else."""

from __future__ import annotations

import fcntl
import os
import signal
import sqlite3
import subprocess
import sys
import termios
from collections.abc import Callable
from contextlib import closing

import psutil
import pytest
import torch

from lensd.store.ledger import Ledger
from tests.fuzz.bombs import Hole, write
from tests.support.architectures import Module
from tests.support.home_server import HomeServer, Seen, wait_until
from tests.support.running import Line, RunningDaemon

ENDS = ("worker.crashed", "file.compressed", "file.quarantined")
# Its factors are 134 MB in float64; a rank above 512 would be refused by the header.
LARGE = {"up": (16384, 512), "down": (512, 16384)}


def _backoff(server: HomeServer, daemon: RunningDaemon) -> int:
    """Have a worker started by a first file, and stop it where it waits for the next."""
    first = server.drop("first.safetensors", seed=1)
    pid = int(daemon.wait_for_event("worker.started")["pid"])
    daemon.wait_for_file(first.path, "file.compressed")
    os.kill(pid, signal.SIGSTOP)
    return pid


def _unread(pid: int) -> int:
    """Bytes that a process has not read from its stdin."""
    with open(f"/proc/{pid}/fd/0", "rb", buffering=0) as pipe:
        found = fcntl.ioctl(pipe, termios.FIONREAD, bytes(4))
    return int.from_bytes(found, sys.byteorder)


def test_a_killed_worker_costs_one_attempt(server: HomeServer) -> None:
    """`worker.crashed` with its signal; the file is compressed by the next one."""
    with server.daemon(forked=True) as daemon:
        daemon.wait_for_event("daemon.ready")
        pid = _backoff(server, daemon)
        path = server.drop("style.safetensors", seed=2).path
        settled = daemon.wait_for_file(path, "file.settled")
        wait_until(lambda: _unread(pid) > 0, "the stopped worker has a request")
        os.kill(pid, signal.SIGKILL)
        crashed = daemon.wait_for_event("worker.crashed")
        assert (crashed["pid"], crashed["exit"]) == (pid, -signal.SIGKILL)
        assert crashed["job_id"] == settled["job_id"]
        line = daemon.wait_for_file(path)
        assert line["event"] == "file.compressed"
        assert line["job_id"] == settled["job_id"]
        assert daemon.stop() == 0
    assert [] == server.temporaries()


@pytest.mark.slow
def test_a_worker_that_hangs_is_ended(server: HomeServer) -> None:
    """After `worker.timeout`: one attempt, told as such, and a new worker does it."""
    server.configure(worker={"timeout": 4})  # a busy machine computes the small file in less
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        pid = _backoff(server, daemon)
        path = server.drop("style.safetensors", seed=2).path
        crashed = daemon.wait_for_event("worker.crashed")
        assert (crashed["pid"], crashed["exit"]) == (pid, None)
        assert "within 4 s" in crashed["message"]
        assert daemon.wait_for_file(path)["event"] == "file.compressed"
    assert daemon.process.returncode == 0


@pytest.mark.slow
@pytest.mark.fault("killing file")
def test_a_file_that_takes_too_long_waits_for_all_others(
    server: HomeServer, tell: Callable[[str], None]
) -> None:
    """It comes first, has a second attempt when the others are done, and is set aside then."""
    server.configure(worker={"timeout": 3})
    many = [Module("unet", f"down_blocks.{n}.attentions.0.proj_in", 4096, 4096) for n in range(8)]
    made = server.make("slow.safetensors", modules=many, rank=1024, dtype="F16")
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        _backoff(server, daemon)
        assert server.lensd("pause").returncode == 0
        path = server.move_in(made.path)
        daemon.wait_for_file(path, "file.settled")
        others = [server.drop(f"{n}.safetensors", seed=n).path for n in range(3)]
        daemon.wait_for_files(others, "file.settled")
        assert server.lensd("resume").returncode == 0
        worker = int(daemon.wait_for_event("worker.started")["pid"])
        for _ in others:
            daemon.wait_for_event("file.compressed")
        # The file takes seconds on any machine. Only a stopped worker reaches the limit of 3 s.
        os.kill(worker, signal.SIGSTOP)
        line = daemon.wait_for_file(path, "file.quarantined")
        assert (line["reason"], line["attempts"]) == ("worker_timeout", 2)
        tell(line["message"])
        steps = [found for found in daemon.lines if found["event"] in ENDS]
        assert [found["event"] for found in steps] == [
            "file.compressed", "worker.crashed", *["file.compressed"] * 3,
            "worker.crashed", "file.quarantined",
        ]  # fmt: skip
        assert daemon.stop() == 0
    assert [] == server.temporaries()


@pytest.mark.slow
@pytest.mark.fault("killing file")
def test_a_file_that_costs_too_much_is_refused_at_once(
    server: HomeServer, tell: Callable[[str], None]
) -> None:
    """By its header, with the cost in the message; the worker goes on with the next file."""
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        bomb = server.elsewhere / "bomb.safetensors"
        hole = Hole("F16", (16384, 16384))
        write(bomb, {f"lora_unet_a.lora_{part}.weight": hole for part in ("up", "down")})
        path = server.move_in(bomb)
        line = daemon.wait_for_file(path, "file.skipped")
        assert line["reason"] == "too_costly"
        assert "module lora_unet_a (rank 16384, 16384 to 16384)" in line["message"]
        tell(line["message"])
        good = server.drop("good.safetensors", seed=4).path
        assert daemon.wait_for_file(good)["event"] == "file.compressed"
        assert [] == [found for found in daemon.lines if found["event"] == "worker.crashed"]
        assert daemon.stop() == 0


@pytest.mark.slow
@pytest.mark.fault("killing file")
def test_a_file_that_kills_the_worker_thrice_is_set_aside(server: HomeServer) -> None:
    """Quarantined with the remedy, untouched; others go on; `once` and a new version try again."""
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        made = server.make("poison.safetensors", seed=3)
        before = Seen.of(made.path)
        path = server.move_in(made.path)
        line = _kill_every_worker(daemon)
        assert line["path"] == str(path)
        assert ("file.quarantined", "worker_crashed") == (line["event"], line["reason"])
        assert line["attempts"] == 3
        assert "as it is" in line["message"]
        assert before == Seen.of(path)
        good = server.drop("good.safetensors", seed=4).path
        assert daemon.wait_for_file(good)["event"] == "file.compressed"
        assert daemon.stop() == 0
    assert [str(path)] == [p["path"] for p in server.status()["problems"]]
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        other = server.drop("other.safetensors", seed=5).path
        daemon.wait_for_file(other, "file.compressed")
    assert [] == daemon.of(path)
    _pretend_older_version(server)
    with server.daemon() as daemon:
        assert daemon.wait_for_file(path)["event"] == "file.compressed"
    assert [] == server.status()["problems"]


@pytest.mark.slow
def test_once_tries_a_quarantined_file_again(server: HomeServer) -> None:
    """The explicit way."""
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        path = server.drop("poison.safetensors", seed=3).path
        assert _kill_every_worker(daemon)["path"] == str(path)
    lines = server.once()
    assert [str(path)] == [line["path"] for line in lines if line["event"] == "file.compressed"]


@pytest.mark.slow
@pytest.mark.fault("killing file")
def test_a_file_that_needs_more_memory_than_the_worker_may_have_is_set_aside(
    server: HomeServer, tell: Callable[[str], None]
) -> None:
    """After three workers, untouched, with limit and remedy; others go on; with more it is done."""
    server.configure(worker={"memory_limit": "256MiB"})
    made = server.elsewhere / "large.safetensors"
    write(made, {f"lora_unet_a.lora_{part}.weight": torch.randn(s) for part, s in LARGE.items()})
    before = Seen.of(made)
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        path = server.move_in(made)
        line = daemon.wait_for_file(path, "file.quarantined")
        assert (line["reason"], line["attempts"]) == ("worker_memory", 3)
        assert "worker.memory_limit (256 MiB; raise it" in line["message"]
        tell(line["message"])
        crashed = [found for found in daemon.lines if found["event"] == "worker.crashed"]
        assert [None] * 3 == [found["exit"] for found in crashed]
        assert before == Seen.of(path)
        good = server.drop("good.safetensors", seed=4).path
        assert daemon.wait_for_file(good)["event"] == "file.compressed"
        assert daemon.stop() == 0
    assert [] == server.temporaries()
    server.configure(worker={"memory_limit": "8GiB"})
    assert server.lensd("retry", path).returncode == 0
    with server.daemon() as daemon:
        assert daemon.wait_for_file(path)["event"] == "file.compressed"


@pytest.mark.slow
def test_a_worker_killed_while_idle_costs_nothing(server: HomeServer) -> None:
    """It is told without a job, and the next file keeps all its attempts."""
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        first = server.drop("first.safetensors", seed=1).path
        pid = int(daemon.wait_for_event("worker.started")["pid"])
        daemon.wait_for_file(first, "file.compressed")
        os.kill(pid, signal.SIGKILL)
        path = server.drop("style.safetensors", seed=2).path
        crashed = daemon.wait_for_event("worker.crashed")
        assert (crashed["pid"], crashed["exit"]) == (pid, -signal.SIGKILL)
        assert crashed["job_id"] is None
        line = daemon.wait_for_file(path, "file.compressed")
        assert _attempts(server, line["job_id"]) == 0
        assert daemon.stop() == 0


def _attempts(server: HomeServer, job_id: str) -> int:
    with closing(sqlite3.connect(server.state / "ledger.sqlite3")) as db:
        query = "SELECT attempts FROM files WHERE job_id = ?"
        return int(db.execute(query, (job_id,)).fetchone()[0])


def _kill_every_worker(daemon: RunningDaemon) -> Line:
    """Kill three workers, each as soon as it is there; the line of the quarantine."""
    this = psutil.Process(daemon.process.pid)
    for _ in range(3):
        wait_until(lambda: bool(this.children()), "a worker is there")
        for worker in this.children():
            worker.kill()
        daemon.wait_for_event("worker.crashed")
    return daemon.wait_for_event("file.quarantined")


def _pretend_older_version(server: HomeServer) -> None:
    with sqlite3.connect(server.state / "ledger.sqlite3") as db:
        db.execute("UPDATE files SET version = '0.0.1' WHERE outcome = 'quarantined'")
    db.close()


WITHOUT_PYTHON = """
import sys
from lensd.cli import main
sys.executable = "/nonexistent"  # of each process that lensd starts
main(["once", "--yes", "-c", sys.argv[1]])
"""


def test_no_file_fails_because_no_process_can_be_started(server: HomeServer) -> None:
    """The machine has no memory for one, for example: the file stays queued."""
    server.drop("style.safetensors", seed=1)
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_PYTHON, server.config],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 5, done.stderr
    assert "no worker process can be started: No such file" in done.stderr
    with Ledger.read_only(str(server.state)) as ledger:
        assert [entry.outcome for entry in ledger.jobs.unfinished()] == [None]
