"""The archive goes while a job computes, or shows up in a watched folder."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.home_server import HomeServer, Seen, wait_until
from tests.support.marks import needs_program, needs_root
from tests.support.mounts import image, namespace, seen_by, within
from tests.support.running import RunningDaemon

pytestmark = [
    pytest.mark.slow,
    needs_root,
    needs_program("unshare"),
    needs_program("nsenter"),
]


@pytest.fixture
def server(tmp_path: Path) -> HomeServer:
    return HomeServer(tmp_path)


@contextmanager
def _computing(server: HomeServer, daemon: RunningDaemon) -> Iterator[Path]:
    """The file of a second job, whose worker is stopped for the length of the block."""
    first = server.drop("first.safetensors", seed=1).path
    daemon.wait_for_file(first, "file.compressed")
    worker = int(next(x for x in daemon.lines if x["event"] == "worker.started")["pid"])
    os.kill(worker, signal.SIGSTOP)
    try:
        second = server.drop("second.safetensors", seed=2).path
        wait_until(lambda: bool(server.status()["running"]), "a running job")
        yield second
    finally:
        os.kill(worker, signal.SIGCONT)


@pytest.mark.fault("archive gone")
def test_unmounted_while_a_job_computes(server: HomeServer) -> None:
    """The original is not put below the mount point, where the next mount would hide it."""
    disk = image(server.top / "disk.img")
    with server.daemon(prefix=namespace(disk.mount(server.archive))) as daemon:
        daemon.wait_for_event("daemon.ready", 30)
        pid = daemon.process.pid
        with _computing(server, daemon) as second:
            before = Seen.of(second)
            within(pid, "umount", "--lazy", str(server.archive))
        alert = daemon.wait_for_event("daemon.degraded", 60)
        assert (alert["reason"], alert["path"]) == ("io_error", str(server.archive))
        assert list(seen_by(pid, server.archive).iterdir()) == []
        assert Seen.of(second) == before
        within(pid, *disk.mount(server.archive))
        daemon.wait_for_file(second, "file.compressed", seconds=90)
        daemon.wait_for_event("daemon.recovered", 60)
        kept = seen_by(pid, server.archived(second))
        assert Seen.of(kept).sha256 == before.sha256
        assert daemon.stop() == 0
    assert server.temporaries() == []


@pytest.mark.fault("archive gone")
def test_a_crash_is_put_right_when_the_archive_is_back(server: HomeServer) -> None:
    """Recovery rescues nothing to the folder below the mount point."""
    disk = image(server.top / "disk.img")
    with server.daemon(prefix=namespace(disk.mount(server.archive))) as daemon:
        daemon.wait_for_event("daemon.ready", 30)
        with _computing(server, daemon) as second:
            daemon.kill()
    stray = server.loras / ".lensd-stray.tmp"
    stray.write_bytes(b"of another program")
    with server.daemon(prefix=namespace()) as daemon:
        assert str(server.archive) in daemon.wait_for_event("daemon.degraded", 60)["path"]
        pid = daemon.process.pid
        daemon.wait_for_event("daemon.ready", 30)
        assert list(seen_by(pid, server.archive).iterdir()) == []
        assert stray.exists()
        within(pid, *disk.mount(server.archive))
        daemon.wait_for_file(second, "file.compressed", seconds=90)
        assert daemon.stop() == 0
    with server.daemon(prefix=namespace(disk.mount(server.archive))) as daemon:
        assert daemon.wait_for_event("file.rescued", 30)["path"] == str(stray)


@pytest.mark.fault("archive gone")
def test_mounted_after_the_first_start(server: HomeServer) -> None:
    """lensd knows the empty folder as its archive. The disk over it is the archive from then on."""
    disk = image(server.top / "disk.img")
    server.configure(defaults={"min_saving": 0.99})
    with server.daemon(prefix=namespace()) as daemon:
        daemon.wait_for_event("daemon.ready", 30)
        daemon.wait_for_file(server.drop("first.safetensors", seed=1).path, "file.kept")
        assert daemon.stop() == 0
    server.configure()
    with server.daemon(prefix=namespace(disk.mount(server.archive))) as daemon:
        daemon.wait_for_event("daemon.ready", 30)
        path = server.drop("style.safetensors").path
        before = Seen.of(path)
        daemon.wait_for_file(path, "file.compressed")
        kept = seen_by(daemon.process.pid, server.archived(path))
        assert Seen.of(kept).sha256 == before.sha256
        assert daemon.stop() == 0
    with server.daemon(prefix=namespace()) as daemon:
        assert daemon.wait_for_event("daemon.ready", 30)
        server.drop("late.safetensors", seed=2)
        assert str(server.archive) in daemon.wait_for_event("daemon.degraded", 60)["path"]
        assert daemon.stop() == 0


@pytest.mark.fault("archive shown")
@pytest.mark.parametrize("part", ["", "loras"])
def test_the_archive_shows_in_a_watched_folder(server: HomeServer, part: str) -> None:
    """At run time the folder is degraded until it is unmounted; at the start it is a fault."""
    shown = server.loras / "shown"
    shown.mkdir()
    mount = ["mount", "--bind", str(server.archive / part), str(shown)]
    with server.daemon(prefix=namespace()) as daemon:
        daemon.wait_for_event("daemon.ready", 30)
        pid = daemon.process.pid
        first = server.drop("first.safetensors", seed=1).path
        before = Seen.of(first)
        daemon.wait_for_file(first, "file.compressed")
        within(pid, *mount)
        alert = daemon.wait_for_event("daemon.degraded", 30)
        assert (alert["reason"], alert["watch"]) == ("overlaps", "loras")
        assert str(shown) in alert["message"]
        late = server.drop("late.safetensors", seed=2).path
        within(pid, "umount", str(shown))
        daemon.wait_for_event("daemon.recovered", 60)
        daemon.wait_for_file(late, "file.compressed")
        assert Seen.of(server.archived(first)).sha256 == before.sha256
        assert {x["path"] for x in daemon.lines if x["event"] == "file.compressed"} == {
            str(first), str(late),
        }  # fmt: skip
        assert daemon.stop() == 0
    done = server.lensd("once", prefix=namespace(mount))
    assert done.returncode == 4
    assert f"{shown} shows" in done.stderr


@pytest.mark.fault("private")
def test_private_folders_stay_private(server: HomeServer) -> None:
    """Into the archive, and back from it."""
    path = server.drop("private/deep/a.safetensors", seed=1).path
    folders = [path.parent, path.parent.parent]
    for folder, mode in zip(folders, (0o750, 0o700), strict=True):
        folder.chmod(mode)
        os.chown(folder, 1234, 2345)
    server.once()
    archived = server.archived(path)
    mirrors = [archived.parent, archived.parent.parent]

    def rights(folder: Path) -> tuple[int, int, int]:
        found = folder.stat()
        return found.st_mode, found.st_uid, found.st_gid

    wanted = [rights(folder) for folder in folders]
    assert [rights(folder) for folder in mirrors] == wanted
    shutil.rmtree(server.loras / "private")
    assert server.lensd("restore", path).returncode == 0
    assert [rights(folder) for folder in folders] == wanted
