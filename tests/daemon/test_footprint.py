"""What the daemon costs the machine that it lives on, and how systemd sees it."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import psutil
import pytest

from bench.memory import resident
from lensd.watcher.scan import BATCH
from tests.daemon.conftest import OWN_MEBIBYTES
from tests.support.home_server import HomeServer, wait_until
from tests.support.limits import PATIENCE


@pytest.mark.slow
def test_the_daemon_stays_small_and_the_worker_leaves(server: HomeServer) -> None:
    """No torch is ever mapped into the daemon, under 38 MiB; an idle worker ends by itself."""
    server.configure(worker={"idle_exit": 2})  # time for the test to see it as a child
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        path = server.drop("style.safetensors", seed=1).path
        started = daemon.wait_for_event("worker.started")
        this = psutil.Process(daemon.process.pid)
        assert started["pid"] in [child.pid for child in this.children()]
        daemon.wait_for_file(path, "file.compressed")
        stopped = daemon.wait_for_event("worker.stopped")
        assert (stopped["pid"], stopped["reason"]) == (started["pid"], "idle")
        wait_until(lambda: not this.children(), "the worker has left")
        maps = Path(f"/proc/{this.pid}/maps").read_text()
        assert "torch" not in maps
        assert "numpy" not in maps
        assert resident(this.pid, "RssAnon") < OWN_MEBIBYTES
        kinds = {c.family for c in this.net_connections()}
        assert socket.AF_INET not in kinds
        assert socket.AF_INET6 not in kinds
        again = server.drop("again.safetensors", seed=9).path
        daemon.wait_for_file(again, "file.compressed")
        assert daemon.stop() == 0


def test_systemd_hears_when_it_is_ready_and_when_it_stops(server: HomeServer) -> None:
    """READY=1 and STOPPING=1 as datagrams to $NOTIFY_SOCKET."""
    address = str(server.top / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(address)
        channel.settimeout(PATIENCE)
        with server.daemon(env={"NOTIFY_SOCKET": address}) as daemon:
            assert channel.recv(64) == b"READY=1"
            daemon.wait_for_event("daemon.ready")
            assert daemon.stop() == 0
            assert channel.recv(64) == b"STOPPING=1"


def _next_but_beats(channel: socket.socket, seconds: float) -> bytes | None:
    """The next word that is no beat; None when there is silence for so long."""
    channel.settimeout(seconds)
    try:
        while (word := channel.recv(64)) == b"WATCHDOG=1":
            pass
    except TimeoutError:
        return None
    return word


def test_the_watchdog_hears_of_a_loop_that_turns_and_of_a_reload(server: HomeServer) -> None:
    """WATCHDOG=1 twice an interval; silence while the process is stopped; RELOADING=1 at SIGHUP."""
    address = str(server.top / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(address)
        channel.settimeout(PATIENCE)
        env = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000000"}
        with server.daemon(env=env) as daemon:
            assert [channel.recv(64) for _ in range(3)] == [b"READY=1", *[b"WATCHDOG=1"] * 2]
            daemon.process.send_signal(signal.SIGSTOP)
            assert _next_but_beats(channel, 1.5) is None
            daemon.process.send_signal(signal.SIGCONT)
            daemon.process.send_signal(signal.SIGHUP)
            reloading = _next_but_beats(channel, PATIENCE)
            assert reloading is not None
            assert reloading.startswith(b"RELOADING=1\nMONOTONIC_USEC=")
            assert _next_but_beats(channel, PATIENCE) == b"READY=1"
            assert daemon.stop() == 0


def test_a_long_look_at_many_files_asks_for_time(server: HomeServer) -> None:
    """Neither the start's timeout nor the watchdog ends a daemon that comes further."""
    for number in range(3 * BATCH):
        (server.loras / f"{number}.safetensors").write_bytes(b"no LoRA")
    address = str(server.top / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(address)
        channel.settimeout(PATIENCE)
        with server.daemon(env={"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000"}) as daemon:
            words: list[bytes] = []
            while not words or words[-1] != b"READY=1":
                words.append(channel.recv(64))
            assert set(words[:-1]) == {b"WATCHDOG=1\nEXTEND_TIMEOUT_USEC=120000000"}
            assert daemon.stop() == 0


def test_a_notify_socket_that_is_gone_is_no_fault(server: HomeServer) -> None:
    """Nor is an abstract one that nobody listens to."""
    with server.daemon(env={"NOTIFY_SOCKET": "@lensd-nobody-listens"}) as daemon:
        daemon.wait_for_event("daemon.ready")
        os.kill(daemon.process.pid, signal.SIGTERM)
        assert daemon.process.wait(PATIENCE) == 0
