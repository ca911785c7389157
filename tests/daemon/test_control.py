"""Requests over the control socket: the running daemon does what commands ask for."""

from __future__ import annotations

import os
import signal
import socket
import stat
from pathlib import Path

import pytest

from lensd.daemon.control import NAME
from tests.daemon.conftest import Running
from tests.support.home_server import HomeServer, Seen, wait_until
from tests.support.limits import PATIENCE


def test_restore_goes_through_the_daemon(running: Running) -> None:
    """The original is back, bit for bit; its line is in the daemon's log; it is left alone."""
    server, daemon = running
    made = server.make("back.safetensors", seed=21)
    before = Seen.of(made.path)
    path = server.move_in(made.path)
    daemon.wait_for_file(path, "file.compressed")
    done = server.lensd("restore", path)
    assert (done.returncode, done.stdout) == (0, "")
    assert f"restored {path}" in done.stderr
    assert Seen.of(path) == before
    assert daemon.wait_for_file(path, "file.restored")["sha256"] == before.sha256
    other = server.drop("other.safetensors", seed=22).path
    daemon.wait_for_file(other, "file.compressed")
    assert daemon.of(path)[-1] == "file.restored"


def test_what_the_daemon_says_against_it_comes_back(running: Running) -> None:
    """With the exit code that the command would have without it."""
    server, _ = running
    done = server.lensd("restore", server.loras / "never.safetensors")
    assert done.returncode == 2
    assert "never.safetensors" in done.stderr
    outside = server.lensd("pause", server.elsewhere)
    assert (outside.returncode, "in no watched folder" in outside.stderr) == (2, True)


def test_retry_is_taken_up_at_once(running: Running) -> None:
    """The daemon looks at the file again, without a restart."""
    server, daemon = running
    made = server.make("infinite.safetensors", seed=23).path
    made.write_bytes(made.read_bytes()[:-2] + b"\xff\x7f")
    path = server.move_in(made)
    daemon.wait_for_file(path, "file.failed")
    assert server.lensd("retry", path).returncode == 0
    assert daemon.wait_for_file(path, "file.failed")["reason"] == "not_finite"


def test_a_pause_holds_jobs_back_until_it_ends(running: Running) -> None:
    """Of a folder and of everything; `status` says so; what came meanwhile is then done."""
    server, daemon = running
    style = server.loras / "style"
    style.mkdir()
    assert server.lensd("pause", style).returncode == 0
    held = server.drop("style/held.safetensors", seed=24).path
    daemon.wait_for_file(held, "file.settled")
    free = server.drop("free.safetensors", seed=25).path
    assert daemon.wait_for_file(free)["event"] == "file.compressed"
    assert server.lensd("pause").returncode == 0
    also_held = server.drop("also.safetensors", seed=26).path
    daemon.wait_for_file(also_held, "file.settled")
    status = server.status()
    assert status["paused"] == ["everything", str(style)]
    assert {job["path"] for job in status["queued"]} == {str(held), str(also_held)}
    assert server.lensd("resume", server.loras / "free.safetensors").returncode == 2
    assert server.lensd("resume").returncode == 0
    assert daemon.wait_for_file(held)["event"] == "file.compressed"
    assert daemon.wait_for_file(also_held)["event"] == "file.compressed"
    assert server.status()["paused"] == []
    assert {"daemon.paused", "daemon.resumed"} <= {line["event"] for line in daemon.lines}


def test_only_owner_and_group_may_talk_to_it(running: Running) -> None:
    """The socket's rights are 0660, those of the state folder let no others in."""
    server, _ = running
    assert stat.S_IMODE((server.state / NAME).stat().st_mode) == 0o660
    assert not stat.S_IMODE(server.state.stat().st_mode) & 0o007


def test_nonsense_on_the_socket_harms_nobody(running: Running) -> None:
    """The connection ends; the next request is answered."""
    server, daemon = running
    for request in (
        b"\n",
        b"{}\n",
        b'{"verb": "eat"}\n',
        b'{"verb": "restore", "x": 1}\n',
        b"\xff",
    ):
        with socket.socket(socket.AF_UNIX) as channel:
            channel.settimeout(PATIENCE)
            channel.connect(str(server.state / NAME))
            channel.sendall(request)
            channel.shutdown(socket.SHUT_WR)
            while channel.recv(4096):
                pass
    assert server.lensd("resume").returncode == 0
    assert daemon.process.poll() is None


@pytest.mark.slow
def test_a_pause_outlives_the_daemon(server: HomeServer) -> None:
    """Set while none runs, kept over a restart, ended while none runs."""
    assert server.lensd("pause").returncode == 0
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        path = server.drop("style.safetensors", seed=1).path
        daemon.wait_for_file(path, "file.settled")
        daemon.stop()
    assert server.lensd("resume").returncode == 0
    with server.daemon() as daemon:
        assert daemon.wait_for_file(path)["event"] == "file.compressed"


def test_a_socket_that_a_killed_daemon_left(tmp_path: Path) -> None:
    """It stands in nobody's way, also where the path is longer than an address may be."""
    deep = tmp_path / ("folder" * 20)
    deep.mkdir()
    server = HomeServer(deep)
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        daemon.kill()
    assert (server.state / NAME).exists()
    assert server.lensd("pause").returncode == 0
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        assert server.lensd("resume").returncode == 0
        assert daemon.stop() == 0
    assert not (server.state / NAME).exists()


@pytest.mark.slow
def test_a_restore_waits_for_the_job_under_way(server: HomeServer) -> None:
    """The worker is stopped in the middle of a job; the restore is done right after that job."""
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        first = server.drop("first.safetensors", seed=1).path
        pid = int(daemon.wait_for_event("worker.started")["pid"])
        daemon.wait_for_file(first, "file.compressed")
        os.kill(pid, signal.SIGSTOP)
        second = server.drop("second.safetensors", seed=2).path
        wait_until(lambda: bool(server.temporaries()), "the second job runs")
        with server.begin("restore", first) as asking:
            daemon.wait_for_file(second, "file.settled")
            assert asking.poll() is None
            os.kill(pid, signal.SIGCONT)
            assert asking.wait(PATIENCE) == 0
        daemon.wait_for_file(second, "file.compressed")
        daemon.wait_for_file(first, "file.restored")
