"""lensd makes no network connection: no process of it ever makes a socket for one."""

from __future__ import annotations

import re
from pathlib import Path

import psutil
import pytest

from tests.notify.conftest import Webhook, notify
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


@pytest.mark.slow
@needs_program("strace")
def test_only_the_child_that_notifies_connects(server: HomeServer) -> None:
    """With recipients, the daemon and its threads still make AF_UNIX sockets only."""
    trace, webhook = server.top / "trace", Webhook()
    notify(server, urls=[webhook.url])
    strace = ("strace", "-D", "-f", "-q", "-e", "trace=socket", "-o", str(trace))
    notified = {"NOTIFY_SOCKET": str(server.top / "nobody-listens")}
    with server.daemon(prefix=strace, env=notified) as daemon:
        daemon.wait_for_event("daemon.ready")
        made = server.make("broken.safetensors", seed=1)
        made.path.write_bytes(made.path.read_bytes()[:-2] + b"\xff\x7f")
        assert daemon.wait_for_file(server.move_in(made.path))["event"] == "file.failed"
        webhook.next()
        pid = daemon.process.pid
        threads = {int(name.name) for name in Path(f"/proc/{pid}/task").iterdir()}
        children = psutil.Process(pid).children()
        (child,) = (p.pid for p in children if "lensd.notify" in p.cmdline())
        assert daemon.stop() == 0
    webhook.close()
    calls = re.findall(r"^(\d+) +socket\((\w+)", trace.read_text(), re.MULTILINE)
    assert {family for caller, family in calls if int(caller) in threads} == {"AF_UNIX"}
    assert "AF_INET" in {family for caller, family in calls if int(caller) == child}, calls
