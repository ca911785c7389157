"""Full, read-only and failing disks: lensd waits, tells once, and goes on by itself."""

from __future__ import annotations

import contextlib
import math
import shutil
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from lensd.config.load import load
from lensd.daemon.app import App
from lensd.daemon.disk_backoff import FIRST_TRY_SECONDS
from lensd.daemon.inbox import Inbox
from lensd.jobs.daily_prune import Schedule
from lensd.store.ledger import Ledger
from tests.support.disks import Mounts, fill, remount, tmpfs
from tests.support.home_server import HomeServer, Seen, wait_until
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
            if where == "source":  # no job before the disk is full
                assert server.lensd("pause").returncode == 0
            else:
                ballast = fill(folder, leave=0)
            for made, path in zip(small, paths, strict=True):
                shutil.copyfile(made.path, path)
                shutil.copystat(made.path, path)
            if where == "source":
                daemon.wait_for_files(paths, "file.settled")
                ballast = fill(folder, leave=0)
                assert server.lensd("resume").returncode == 0
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
        wait_until(lambda: server.status()["held"] is not None, "noted after the line")
        assert server.lensd("pause").returncode == 0
        remount(server.archive, read_only=False)
        daemon.wait_for_event("daemon.recovered", RESUMED_SECONDS)
        wait_until(lambda: server.status()["held"] is None, "noted after the line")
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


@pytest.mark.fault("disk full")
def test_a_full_folder_holds_only_its_own_jobs(server: HomeServer) -> None:
    """A folder on another disk continues; the alert ends with the job that waited."""
    full = server.top / "full"
    with tmpfs(full, "4m"):
        server.configure(watch=[{"path": str(full)}, {"path": str(server.loras)}])
        ballast = fill(full, leave=2**20)
        with server.daemon() as daemon:
            daemon.wait_for_event("daemon.ready", 30)
            waits = full / "waits.safetensors"
            made = server.make("waits.safetensors", seed=1).path
            assert server.lensd("pause").returncode == 0
            shutil.copyfile(made, waits)
            daemon.wait_for_file(waits, "file.settled")
            rest = fill(full, leave=0, name="rest")
            assert server.lensd("resume").returncode == 0
            assert daemon.wait_for_event("daemon.degraded", 60)["reason"] == "no_space"
            for seed in (2, 3):
                path = server.drop(f"{seed}.safetensors", seed=seed).path
                assert daemon.wait_for_file(path)["event"] == "file.compressed"
            assert [str(waits)] == [job["path"] for job in server.status()["queued"]]
            assert "daemon.recovered" not in {line["event"] for line in daemon.lines}
            began = time.monotonic()
            rest.unlink()
            ballast.unlink()
            assert (
                daemon.wait_for_file(waits, seconds=RESUMED_SECONDS)["event"] == "file.compressed"
            )
            assert time.monotonic() - began < FIRST_TRY_SECONDS / 2  # the space was noticed
            if "daemon.recovered" not in {line["event"] for line in daemon.lines}:
                daemon.wait_for_event("daemon.recovered", 30)
            wait_until(lambda: server.status()["held"] is None, "noted after the line")
            assert daemon.stop() == 0


@pytest.mark.fault("disk full")
def test_a_full_archive_holds_no_job_that_archives_nothing(server: HomeServer) -> None:
    """A folder in mode `analyze` continues."""
    measured = server.top / "measured"
    measured.mkdir()
    with tmpfs(server.archive, "4m"):
        watch = [{"path": str(measured), "mode": "analyze"}, {"path": str(server.loras)}]
        server.configure(watch=watch)
        ballast = fill(server.archive, leave=0)
        with server.daemon() as daemon:
            daemon.wait_for_event("daemon.ready", 30)
            waits = server.drop("waits.safetensors", seed=1).path
            assert daemon.wait_for_event("daemon.degraded", 60)["reason"] == "no_space"
            path = measured / "style.safetensors"
            server.make("style.safetensors", seed=2).path.rename(path)
            assert daemon.wait_for_file(path)["event"] == "file.analyzed"
            ballast.unlink()
            assert (
                daemon.wait_for_file(waits, seconds=RESUMED_SECONDS)["event"] == "file.compressed"
            )
            assert daemon.stop() == 0


@pytest.mark.fault("disk full")
@pytest.mark.parametrize("where", ["source", "archive"])
def test_a_disk_without_inodes_is_full(server: HomeServer, where: str) -> None:
    """lensd waits, and continues soon after some small files are deleted."""
    folder = {"source": server.loras, "archive": server.archive}[where]
    with tmpfs(folder, "64m,nr_inodes=64"), server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready", 30)
        assert server.lensd("pause").returncode == 0
        path = folder if where == "source" else server.loras
        path = shutil.copyfile(server.make("style.safetensors").path, path / "style.safetensors")
        daemon.wait_for_file(path, "file.settled")
        small = _use_all_inodes(folder)
        assert server.lensd("resume").returncode == 0

        mended = 0.0

        def mend() -> None:
            nonlocal mended
            mended = time.monotonic()
            for file in small:
                file.unlink()

        _goes_on(daemon, path, mend, "no_space")
        assert time.monotonic() - mended < FIRST_TRY_SECONDS / 2  # it was noticed
        assert daemon.stop() == 0


def _use_all_inodes(folder: Path) -> list[Path]:
    made: list[Path] = []
    with contextlib.suppress(OSError):
        while True:
            made.append(folder / f"small-{len(made)}")
            made[-1].touch()
    return made[:-1]


def test_a_fault_of_the_daily_pass_is_reported_once(server: HomeServer) -> None:
    """No job is queued, so that only a pass that succeeds shows that the disk works again."""
    server.configure(keep_days=30)
    said: list[str] = []
    with tmpfs(server.state, "4m"), closing(Ledger(str(server.state), "1")) as ledger:
        app = App(load(str(server.config)), ledger, Inbox(), patient=True)
        app.log.add(lambda event: said.append(type(event).__name__))
        jobs = app.job_thread
        assert jobs._idle_work.daily is not None
        jobs._idle_work.daily._schedule = Schedule(boot=-math.inf)
        ballast = fill(server.state, leave=0)

        def turn() -> int:
            for backoff in jobs.backoffs:
                backoff.next_try = -math.inf
            assert not jobs._begin_job()
            jobs._do_idle_work()
            return 0

        jobs.start()
        for is_mended in (False, False, False, True, True):
            if is_mended:
                ballast.unlink(missing_ok=True)
            assert jobs.submit(turn).result(60) == 0
            assert said == ["DaemonDegraded"] + ["DaemonRecovered"] * is_mended
        app.close()
