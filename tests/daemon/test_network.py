"""lensd makes no network connection: no process of it ever makes a socket for one."""

from __future__ import annotations

import re

import pytest

from tests.support.home_server import HomeServer, wait_until
from tests.support.marks import needs_program


@pytest.mark.slow
@needs_program("strace")
def test_every_socket_of_a_whole_run_is_local(server: HomeServer) -> None:
    """Daemon and worker, from start to stop, with files compressed in between: AF_UNIX only."""
    trace = server.top / "trace"
    # -D: the daemon keeps the process number that this test sends signals to
    strace = ("strace", "-D", "-f", "-q", "-e", "trace=socket,socketpair", "-o", str(trace))
    notified = {"NOTIFY_SOCKET": str(server.top / "nobody-listens")}
    with server.daemon(prefix=strace, env=notified) as daemon:
        daemon.wait_for_event("daemon.ready")
        for seed, mode in enumerate(("F16", "BF16", "F32")):
            path = server.drop(f"{mode}.safetensors", seed=seed, dtype=mode).path
            assert daemon.wait_for_file(path)["event"] == "file.compressed"
        pid = daemon.process.pid
        worker = next(line["pid"] for line in daemon.lines if line["event"] == "worker.started")
        assert daemon.stop() == 0
    ended = re.compile(rf"^{pid} .*exited", re.MULTILINE)
    wait_until(lambda: ended.search(trace.read_text()) is not None, "strace has written all")
    assert re.search(rf"^{worker} ", trace.read_text(), re.MULTILINE), "the worker is traced too"
    calls = re.findall(r"socket(?:pair)?\((\w+)", trace.read_text())
    assert calls, "at least the notification's socket is seen"
    assert set(calls) == {"AF_UNIX"}
