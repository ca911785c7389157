"""Full, read-only and failing disks: lensd waits, tells once, and goes on by itself."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.disks import Mounts, fill, remount, tmpfs
from tests.support.home_server import HomeServer, Seen
from tests.support.marks import needs_root
from tests.support.running import Line, RunningDaemon

pytestmark = pytest.mark.slow

RESUMED_SECONDS = 60


def _goes_on(daemon: RunningDaemon, path: Path, mend: Callable[[], None], reason: str) -> Line:
    """One alert; the job is done within a minute of the mending, and the recovery told."""
    alert = daemon.wait_for_event("daemon.degraded", 60)
    assert alert["reason"] == reason
    time.sleep(3)
    mend()
    line = daemon.wait_for_file(path, seconds=RESUMED_SECONDS)
    assert line["event"] == "file.compressed"
    if "daemon.recovered" not in {e["event"] for e in daemon.lines}:
        daemon.wait_for_event("daemon.recovered", 30)
    assert [e["event"] for e in daemon.lines].count("daemon.degraded") == 1
    return line


@pytest.mark.fault("disk full")
@pytest.mark.parametrize("where", ["source", "archive", "state"])
def test_a_full_disk_is_waited_for(server: HomeServer, where: str) -> None:
    """Files that come meanwhile wait as well, and all are done when there is space."""
    folder = {"source": server.loras, "archive": server.archive, "state": server.state}[where]
    with tmpfs(folder, "8m"):
        with server.daemon() as daemon:
            daemon.wait_for_event("daemon.ready", 30)
            small = [server.make(f"{n}.safetensors", seed=n) for n in range(3)]
            paths = [server.loras / s.path.name for s in small]
            if where != "source":
                ballast = fill(folder, leave=0)
            for made, path in zip(small, paths, strict=True):
                shutil.copyfile(made.path, path)
                shutil.copystat(made.path, path)
            if where == "source":
                ballast = fill(folder, leave=0)
            before = Seen.of(paths[0]).sha256
            reason = "io_error" if where == "state" else "no_space"
            _goes_on(daemon, paths[0], ballast.unlink, reason)
            for path in paths[1:]:  # in any order
                if "file.compressed" not in daemon.of(path):
                    assert daemon.wait_for_file(path)["event"] == "file.compressed"
            assert Seen.of(server.archived(paths[0])).sha256 == before
            assert daemon.stop() == 0
        assert [] == server.temporaries()
        assert "file.failed" not in {line["event"] for line in daemon.lines}


@needs_root
@pytest.mark.parametrize("where", ["source", "source and archive"])
def test_a_disk_whose_exchange_of_names_is_a_rename(server: HomeServer, where: str) -> None:
    """exfat-fuse: no file vanishes; each is compressed, and its original can be had back."""
    with Mounts() as mounts:
        disk = mounts.exfat(server.top / "disk")
        server.loras = disk / "loras"
        server.archive = (disk if "archive" in where else server.top) / "originals"
        for folder in (server.loras, server.archive):
            folder.mkdir()
        server.configure()
        made = server.make("style.safetensors", seed=1).path
        path = server.loras / made.name
        shutil.copyfile(made, path)
        before = Seen.of(made).sha256
        [line] = [line for line in server.once() if line["event"] == "file.compressed"]
        assert line["publish"] == "rename"
        assert Seen.of(path).sha256 == line["sha256_out"]
        assert Seen.of(server.archived(path)).sha256 == before
        assert server.lensd("restore", path).returncode == 0
        assert Seen.of(path).sha256 == before
        assert [] == server.temporaries()


@pytest.mark.fault("read-only")
@pytest.mark.parametrize("where", ["source", "archive"])
def test_a_read_only_disk_is_waited_for(server: HomeServer, where: str) -> None:
    """One line when it turns read-only, and the job is done when it is writable again."""
    folder = {"source": server.loras, "archive": server.archive}[where]
    with tmpfs(folder):
        with server.daemon() as daemon:
            daemon.wait_for_event("daemon.ready", 30)
            if where == "source":
                assert server.lensd("pause").returncode == 0
                path = shutil.copyfile(
                    server.make("style.safetensors").path, folder / "style.safetensors"
                )
                daemon.wait_for_file(path, "file.settled")
                remount(folder, read_only=True)
                assert server.lensd("resume").returncode == 0
            else:
                remount(folder, read_only=True)
                path = server.drop("style.safetensors").path
            _goes_on(daemon, path, lambda: remount(folder, read_only=False), "read_only")
            assert daemon.stop() == 0
        assert [] == server.temporaries()


@pytest.mark.fault("folder gone")
def test_an_archive_whose_disk_is_away_is_waited_for(server: HomeServer) -> None:
    """Nothing is put below its mount point, also after a restart; all goes on when it is back."""
    with tmpfs(server.archive), server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready", 30)
        first = server.drop("first.safetensors", seed=1).path
        daemon.wait_for_file(first, "file.compressed")
    assert list(server.archive.iterdir()) == []
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready", 30)
        path = server.drop("style.safetensors", seed=2).path
        before = Seen.of(path)
        alert = daemon.wait_for_event("daemon.degraded", 60)
        assert str(server.archive) in alert["message"]
        assert Seen.of(path) == before
        assert list(server.archive.iterdir()) == []
        with tmpfs(server.archive):
            line = daemon.wait_for_file(path, seconds=RESUMED_SECONDS)
            assert line["event"] == "file.compressed"
            assert Seen.of(server.archived(path)).sha256 == before.sha256
            assert daemon.stop() == 0


def test_a_disk_that_nothing_waits_for_holds_nothing_up(server: HomeServer) -> None:
    """The alert ends with the fault also when no job is left to try: here they are paused."""
    with tmpfs(server.archive), server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready", 30)
        remount(server.archive, read_only=True)
        server.drop("style.safetensors")
        assert daemon.wait_for_event("daemon.degraded", 60)["reason"] == "read_only"
        assert server.status()["held"] is not None
        assert server.lensd("pause").returncode == 0
        remount(server.archive, read_only=False)
        daemon.wait_for_event("daemon.recovered", RESUMED_SECONDS)
        assert server.status()["held"] is None
        assert daemon.stop() == 0


@pytest.mark.fault("disk full")
def test_once_does_not_wait(server: HomeServer) -> None:
    """It ends with exit code 1 and says why; the file is as it was, and the next run takes it."""
    with tmpfs(server.loras, "4m"):
        path = server.loras / "style.safetensors"
        shutil.copyfile(server.make("style.safetensors").path, path)
        ballast = fill(server.loras, leave=0)
        before = Seen.of(path)
        lines = server.once(code=1)
        assert "no_space" in {line.get("reason") for line in lines}
        assert Seen.of(path) == before
        ballast.unlink()
        assert "file.compressed" in {line["event"] for line in server.once()}
