"""Each piece of state has one owner: a running daemon, and which thread ran which method."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.daemon import traced
from tests.support.home_server import HomeServer, wait_until

pytestmark = pytest.mark.slow

Calls = set[tuple[str, str, str]]  # thread, file, qualified name


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> Calls:
    """What a daemon ran from its start to its end: new, moved and deleted files, and requests."""
    server = HomeServer(tmp_path_factory.mktemp("server"))
    server.configure(
        metrics={"textfile": str(server.top / "lensd.prom")}, settle={"rescan_seconds": 1}
    )
    out = server.top / "calls.json"
    log = server.top / "log"
    command = [sys.executable, traced.__file__, str(out), "run", "-c", str(server.config)]
    with log.open("wb") as stdout, server.stderr.open("wb") as stderr:
        daemon = subprocess.Popen(command, stdout=stdout, stderr=stderr)
    try:
        wait_until(lambda: b"daemon.ready" in log.read_bytes(), "ready", 60)
        _use(server, log)
        daemon.terminate()
        assert daemon.wait(60) == 0, server.stderr.read_text()
    finally:
        daemon.kill()
        daemon.wait()
    return {(thread, file, name) for thread, file, name in json.loads(out.read_text())}


def _use(server: HomeServer, log: Path) -> None:
    """New files, one moved and restored, one in a new folder; the root goes and comes back."""

    def wait_for(event: str, count: int) -> None:
        wanted = f'"{event}"'.encode()
        wait_until(lambda: log.read_bytes().count(wanted) >= count, event, 120)

    first = server.drop("first.safetensors", seed=1).path
    wait_for("file.compressed", 1)
    moved = first.rename(server.loras / "moved.safetensors")
    wait_for("file.moved", 1)
    assert server.lensd("restore", str(moved)).returncode == 0
    server.drop("folder/second.safetensors", seed=2)
    wait_for("file.compressed", 2)
    away = server.loras.rename(server.top / "away")
    wait_for("daemon.degraded", 1)
    away.rename(server.loras)
    wait_for("daemon.recovered", 1)


def _threads_that_ran(calls: Calls, owned: str) -> set[str]:
    return {thread for thread, _, name in calls if name.startswith(f"{owned}.")}


@pytest.mark.parametrize("owned", ["Intake", "Settler", "SteadyClock", "RootMonitor", "Watches"])
def test_state_of_the_thread_of_a_root(calls: Calls, owned: str) -> None:
    """No other thread calls a method of it."""
    assert {"root"} == _threads_that_ran(calls, owned)


def test_the_main_loop_looks_at_no_folder(calls: Calls) -> None:
    """A call to a filesystem that hangs would make it deaf to signals."""
    looks = {"walk", "scan", "probe", "check_root", "open_folder", "identity_at", "read_marks"}
    assert looks == {name for _, _, name in calls} & looks
    assert set() == {name for thread, _, name in calls if thread == "MainThread"} & looks


@pytest.mark.parametrize(
    ("file", "function"),
    [
        ("jobs/compress.py", "process"),
        ("jobs/commit.py", "publish"),
        ("jobs/restore.py", "Restorer.put_back"),
        ("daemon/repairs.py", "Repairs.repair"),
    ],
)
def test_only_the_job_thread_changes_files(calls: Calls, file: str, function: str) -> None:
    """Jobs, requests that change files, and the repair of a folder that is back."""
    assert {"jobs"} == {thread for thread, at, name in calls if (at, name) == (file, function)}


def test_each_root_has_a_thread_of_its_own(calls: Calls) -> None:
    """Another one runs the emitter, which it starts and stops."""
    assert {"root", "inotify"} == _threads_that_ran(calls, "FolderEmitter")
