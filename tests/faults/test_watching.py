"""The kernel drops events, refuses watches, or a thread of watchdog's dies: every file is seen."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.home_server import HomeServer, wait_until
from tests.support.marks import needs_program, needs_root
from tests.support.running import RunningDaemon

pytestmark = pytest.mark.slow

QUEUE = Path("/proc/sys/fs/inotify/max_queued_events")
FILES, FOLDERS = 20_000, 20


@pytest.fixture
def server(tmp_path: Path) -> HomeServer:
    return HomeServer(tmp_path)


@contextmanager
def queue_of(events: int) -> Iterator[None]:
    """The length that inotify queues made meanwhile have."""
    before = QUEUE.read_text()
    QUEUE.write_text(str(events))
    try:
        yield
    finally:
        QUEUE.write_text(before)


def started(server: HomeServer, log: Path) -> subprocess.Popen[bytes]:
    """A daemon whose log goes to a file; it is ready."""
    command = [sys.executable, "-m", "lensd", "run", "-c", str(server.config)]
    with log.open("wb") as out, server.stderr.open("wb") as err:
        daemon = subprocess.Popen(command, stdout=out, stderr=err)
    try:
        wait_until(lambda: b"daemon.ready" in log.read_bytes(), "ready", 60)
    except AssertionError:
        ended(daemon)
        raise
    return daemon


def ended(daemon: subprocess.Popen[bytes]) -> None:
    """Let it end in order, or else kill it."""
    daemon.send_signal(signal.SIGCONT)
    daemon.terminate()
    try:
        daemon.wait(60)
    finally:
        daemon.kill()
        daemon.wait()


def inotify_of(pid: int) -> set[str]:
    """The inotify descriptors of a process, with their watches."""
    found = set()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            if os.readlink(f"/proc/{pid}/fd/{fd}") == "anon_inode:inotify":
                found.add(Path(f"/proc/{pid}/fdinfo/{fd}").read_text())
        except FileNotFoundError:
            continue
    return found


def limited(**limits: int) -> list[str]:
    """A prefix that runs the daemon in a user namespace with limits of its own."""
    writes = "".join(f"echo {n} > /proc/sys/user/{name}; " for name, n in limits.items())
    return ["unshare", "-Ur", "sh", "-ec", f'{writes}exec "$@"', "sh"]


@pytest.mark.fault("event overflow")
@needs_root
def test_20000_files_through_a_queue_of_64_events(
    server: HomeServer, tell: Callable[[str], None]
) -> None:
    """The daemon stands still while the files come, so that the kernel drops nearly all events.

    The files are no LoRAs: each is refused at once, with one line, of which nothing but the path is
    looked at here. No rescan is due within the test: the kernel proves that each folder is watched.
    """
    folders = [server.loras / f"{n}" for n in range(FOLDERS)]
    for folder in folders:
        folder.mkdir()
    log = server.top / "log"
    with queue_of(64):
        daemon = started(server, log)
    try:
        daemon.send_signal(signal.SIGSTOP)
        for number in range(FILES):
            path = folders[number % FOLDERS] / f"{number}.safetensors"
            path.write_bytes(b"<html>not found</html>")
        daemon.send_signal(signal.SIGCONT)
        wait_until(lambda: log.read_bytes().count(b'"file.skipped"') >= FILES, "all", 900)
    finally:
        ended(daemon)
    lines = [json.loads(text) for text in log.read_bytes().splitlines()]
    skipped = [line["path"] for line in lines if line["event"] == "file.skipped"]
    assert "overflowed" in server.stderr.read_text()
    assert len(skipped) == len(set(skipped)) == FILES
    tell(f"{len(skipped)} of {FILES} files seen")


@pytest.mark.fault("watch limit")
@needs_program("unshare")
@needs_program("nsenter")
def test_200_folders_with_50_watches(server: HomeServer, tell: Callable[[str], None]) -> None:
    """One line names the setting; every file is seen; with the setting every folder is watched."""
    for number in range(200):
        (server.loras / f"{number:03}").mkdir()
    server.configure(settle={"rescan_seconds": 3})
    with server.daemon(prefix=limited(max_inotify_watches=50)) as daemon:
        line = daemon.wait_for_event("daemon.degraded", 30)
        assert line["reason"] == "watch_limit"
        assert "only 50 of 201 folders" in line["message"]
        daemon.wait_for_event("daemon.ready", 30)
        assert server.status()["degraded"][0]["reason"] == "watch_limit"
        paths = {str(server.loras / f"{n:03}/{n}.safetensors") for n in range(200)}
        for path in paths:
            Path(path).write_bytes(b"<html>not found</html>")
        seen: set[str] = set()
        while seen != paths:
            seen.add(daemon.wait_for_event("file.skipped", 60)["path"])
        setting = re.search(r"sudo sysctl user\.max_inotify_watches=(\d+)", line["message"])
        assert setting is not None
        apply = f"echo {setting[1]} > /proc/sys/user/max_inotify_watches"
        inside = ["nsenter", "-t", str(daemon.process.pid), "-U", "--preserve-credentials"]
        subprocess.run([*inside, "sh", "-c", apply], check=True)
        assert daemon.wait_for_event("daemon.recovered", 30)["reason"] == "watch_limit"
        assert inotify_of(daemon.process.pid).pop().count("inotify wd:") == 201
        assert server.status()["degraded"] == []
    assert sum(line["event"] == "daemon.degraded" for line in daemon.lines) == 1
    tell(f"{len(seen)} of {len(paths)} files seen with 50 watches for 201 folders")


@pytest.mark.fault("watch limit")
@needs_program("unshare")
@pytest.mark.parametrize(
    ("limits", "setting"),
    [
        ({"max_inotify_watches": 0}, "user.max_inotify_watches=8192"),
        ({"max_inotify_instances": 0}, "user.max_inotify_instances="),
    ],
)
def test_no_watch_at_all(server: HomeServer, limits: dict[str, int], setting: str) -> None:
    """The folder itself gets no watch, or lensd no inotify: it starts, says so, and polls."""
    server.configure(settle={"rescan_seconds": 1})
    with server.daemon(prefix=limited(**limits)) as daemon:
        line = daemon.wait_for_event("daemon.degraded", 30)
        assert line["reason"] == "watch_limit"
        assert setting in line["message"]
        daemon.wait_for_event("daemon.ready", 30)
        daemon.wait_for_file(server.drop("late.safetensors", seed=1).path, "file.compressed")
    assert sum(line["event"] == "daemon.degraded" for line in daemon.lines) == 1


@pytest.mark.fault("stuck")
@needs_program("strace")
@needs_root
def test_the_thread_that_reads_events_dies(server: HomeServer) -> None:
    """The kernel fails its next poll. A new one is there within 30 s, and what came is seen."""
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready", 30)
        pid = daemon.process.pid
        threads = len(os.listdir(f"/proc/{pid}/task"))
        with failing_poll(pid):
            daemon.wait_for_file(server.drop("first.safetensors", seed=1).path, "file.compressed")
            wait_until(lambda: "Cannot allocate" in server.stderr.read_text(), "the death")
        unheard = server.drop("unheard.safetensors", seed=2).path
        daemon.wait_for_file(unheard, "file.detected", seconds=30)
        daemon.wait_for_file(unheard, "file.compressed")
        daemon.wait_for_file(server.drop("heard.safetensors", seed=3).path, "file.compressed")
        assert len(inotify_of(pid)) == 1
        wait_until(lambda: len(os.listdir(f"/proc/{pid}/task")) <= threads + 1, "no old thread")


@contextmanager
def failing_poll(pid: int) -> Iterator[None]:
    """Every poll(2) of a process fails. In the daemon only the reader of events polls."""
    command = ["strace", "-f", "-q", "-p", str(pid), "-e", "trace=poll"]
    command += ["-e", "inject=poll:error=ENOMEM", "-o", "/dev/null"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as strace:
        try:
            wait_until(lambda: _is_traced(pid), "strace has the daemon")
            yield
        finally:
            strace.terminate()


def _is_traced(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    return not re.search(r"^TracerPid:\t0$", status, re.MULTILINE)


@pytest.mark.fault("two daemons")
def test_two_daemons_on_one_folder(server: HomeServer) -> None:
    """With a state folder each: the second, `run` or `once`, refuses and names the first."""
    (server.top / "other").mkdir()
    other = HomeServer(server.top / "other")
    other.configure(watch=[{"path": str(server.loras)}])
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready", 30)
        for verb in ("run", "once"):
            done = other.lensd(verb)
            assert (done.returncode, done.stdout) == (6, "")
            assert str(daemon.process.pid) in done.stderr
            assert str(server.loras) in done.stderr
        daemon.wait_for_file(server.drop("one.safetensors", seed=1).path, "file.compressed")
    other.once()  # the first is gone, and nothing of its claim is left


def test_a_new_tree_is_watched_to_its_leaves(server: HomeServer) -> None:
    """Folders made in one go, then files in the deepest: seen without a rescan."""
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready", 30)
        deep = server.loras.joinpath(*"abcdefgh")
        deep.mkdir(parents=True)
        wait_until(lambda: _watches(daemon) == 9, "each folder is watched")
        daemon.wait_for_file(server.drop("/".join([*"abcdefgh", "x.safetensors"])).path)
        assert _watches(daemon) == 9


def _watches(daemon: RunningDaemon) -> int:
    return inotify_of(daemon.process.pid).pop().count("inotify wd:")
