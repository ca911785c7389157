"""A watched folder goes and comes back: mounts, renames, starts without it; jobs wait for it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.home_server import HomeServer, Seen, wait_until
from tests.support.marks import needs_program, needs_root
from tests.support.mounts import Disk, bind, image, memory, namespace, seen_by, within
from tests.support.running import RunningDaemon

pytestmark = [pytest.mark.slow, pytest.mark.fault("folder gone")]
needs_mounts = [needs_root, needs_program("unshare"), needs_program("nsenter")]

DEGRADED_SECONDS = 30
RETURN_SECONDS = 60


@pytest.fixture
def server(tmp_path: Path) -> HomeServer:
    return HomeServer(tmp_path)


@pytest.fixture(
    params=[
        pytest.param("bind", marks=needs_mounts),
        pytest.param("ext4", marks=[*needs_mounts, needs_program("mkfs.ext4")]),
    ]
)
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Disk:
    """What lies on the watched folder: another folder, or a disk of its own."""
    if request.param == "bind":
        return bind(tmp_path / "disk")
    return image(tmp_path / "disk.img")


def put(server: HomeServer, pid: int, name: str, seed: int) -> Path:
    """A finished LoRA, copied to where the daemon sees its watched folder; the path that it has."""
    made = server.make(name, seed=seed)
    shutil.copyfile(made.path, seen_by(pid, server.loras / name))
    return server.loras / name


def unmount(pid: int, folder: Path) -> None:
    """Not busy for long: an idle lensd keeps nothing open but for the moment of a check, and a job
    closes its files after its line.
    """
    command = ["nsenter", "-t", str(pid), "-m", "umount", str(folder)]

    def is_done() -> bool:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    wait_until(is_done, "unmounted")


def degraded(daemon: RunningDaemon) -> str:
    """The reason of the line that must come in time."""
    line = daemon.wait_for_event("daemon.degraded", DEGRADED_SECONDS)
    assert line["watch"] == "loras"
    return str(line["reason"])


def unfinished(server: HomeServer) -> int:
    """Queued jobs, and one that the loss of its disk cut off, which may be queued again later."""
    status = server.status()
    return len(status["queued"]) + len(status["running"])


def count(daemon: RunningDaemon, event: str) -> int:
    return sum(line["event"] == event for line in daemon.lines)


def test_unmounted_and_mounted_again(server: HomeServer, disk: Disk) -> None:
    """One line each way. What lies under the mount point is none of lensd's business; what came
    to the disk meanwhile is seen, and the file that was compressed before is not touched again.
    """
    with server.daemon(prefix=namespace(disk.mount(server.loras))) as daemon:
        daemon.wait_for_event("daemon.ready", 30)
        pid = daemon.process.pid
        first = put(server, pid, "first.safetensors", 1)
        daemon.wait_for_file(first, "file.compressed")
        before = Seen.of(seen_by(pid, first))

        unmount(pid, server.loras)
        assert degraded(daemon) == "unmounted"
        assert server.status()["degraded"][0]["reason"] == "unmounted"
        decoy = put(server, pid, "decoy.safetensors", 2)
        decoy_before = Seen.of(seen_by(pid, decoy))
        time.sleep(6)

        elsewhere = server.top / "elsewhere-mounted"
        elsewhere.mkdir()
        within(pid, *disk.mount(elsewhere))
        shutil.copyfile(
            server.make("late.safetensors", seed=3).path,
            seen_by(pid, elsewhere / "late.safetensors"),
        )
        within(pid, "umount", str(elsewhere))
        within(pid, *disk.mount(server.loras))
        assert daemon.wait_for_event("daemon.recovered", RETURN_SECONDS)["reason"] == "unmounted"
        daemon.wait_for_file(server.loras / "late.safetensors", "file.compressed")
        later = put(server, pid, "later.safetensors", 4)
        daemon.wait_for_file(later, "file.compressed")  # watched again, not only scanned
        assert before == Seen.of(seen_by(pid, first))
        assert server.status()["degraded"] == []
    assert decoy_before == Seen.of(decoy)
    assert daemon.of(decoy) == []
    assert count(daemon, "daemon.degraded") == count(daemon, "daemon.recovered") == 1


def test_jobs_wait_for_their_disk(
    server: HomeServer, disk: Disk, tell: Callable[..., None]
) -> None:
    """Unmounted with a full queue, and in the middle of a job: each file is compressed at last."""
    with server.daemon(prefix=namespace(disk.mount(server.loras))) as daemon:
        daemon.wait_for_event("daemon.ready", 30)
        pid = daemon.process.pid
        assert server.lensd("pause").returncode == 0
        paths = [put(server, pid, f"{n}.safetensors", n) for n in range(12)]
        daemon.wait_for_files(paths, "file.settled")
        assert server.lensd("resume").returncode == 0
        daemon.wait_for_event("file.compressed")
        within(pid, "umount", "--lazy", str(server.loras))
        assert degraded(daemon) == "unmounted"
        waiting = unfinished(server)
        assert waiting > 0
        time.sleep(6)
        assert unfinished(server) == waiting
        within(pid, *disk.mount(server.loras))
        daemon.wait_for_event("daemon.recovered", RETURN_SECONDS)
        wait_until(lambda: server.status()["totals"]["outcomes"].get("compressed") == 12, "12")
        for path in paths:
            assert b"lensd.original_sha256" in seen_by(pid, path).read_bytes()
    tell(f"{waiting} jobs waited for their disk")


@needs_root
@needs_program("unshare")
@needs_program("nsenter")
def test_mounted_over(server: HomeServer) -> None:
    """Another disk on top hides the folder: that is not an empty folder, nor a new one."""
    with server.daemon(prefix=namespace()) as daemon:
        daemon.wait_for_event("daemon.ready", 30)
        pid = daemon.process.pid
        first = put(server, pid, "first.safetensors", 1)
        daemon.wait_for_file(first, "file.compressed")
        within(pid, *memory().mount(server.loras))
        assert degraded(daemon) == "mounted_over"
        decoy = put(server, pid, "decoy.safetensors", 2)
        time.sleep(6)
        unmount(pid, server.loras)
        daemon.wait_for_event("daemon.recovered", RETURN_SECONDS)
        later = put(server, pid, "later.safetensors", 4)
        daemon.wait_for_file(later, "file.compressed")
    assert daemon.of(decoy) == []


@pytest.mark.parametrize("place", ["aside", "below"])
def test_renamed_and_renamed_back(server: HomeServer, place: str) -> None:
    """Also a folder above it: the path leads nowhere, and leads there again."""
    moved = server.top / "was"
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready", 30)
        daemon.wait_for_file(server.drop("first.safetensors", seed=1).path, "file.compressed")
        server.loras.rename(moved)
        assert degraded(daemon) == "unreachable"
        server.make("late.safetensors", seed=2).path.rename(moved / "late.safetensors")
        if place == "below":
            (moved / "deep").mkdir()
            server.make("deep.safetensors", seed=3).path.rename(moved / "deep/deep.safetensors")
        moved.rename(server.loras)
        daemon.wait_for_event("daemon.recovered", RETURN_SECONDS)
        came = [path for path in server.loras.rglob("*.safetensors") if path.stem != "first"]
        daemon.wait_for_files(came, "file.compressed")
        daemon.wait_for_file(server.drop("later.safetensors", seed=4).path, "file.compressed")
    compressed = {line["path"] for line in daemon.lines if line["event"] == "file.compressed"}
    assert len(compressed) == (4 if place == "below" else 3)


def test_replaced_by_another_folder(server: HomeServer) -> None:
    """A person puts a copy in the folder's place: it is taken, watched, and its news are seen."""
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready", 30)
        daemon.wait_for_file(server.drop("first.safetensors", seed=1).path, "file.compressed")
        copy = server.top / "copy"
        shutil.copytree(server.loras, copy)
        server.make("late.safetensors", seed=2).path.rename(copy / "late.safetensors")
        server.loras.rename(server.top / "old")
        copy.rename(server.loras)
        daemon.wait_for_file(server.loras / "late.safetensors", "file.compressed")
        daemon.wait_for_file(server.drop("later.safetensors", seed=3).path, "file.compressed")


def test_replaced_in_the_middle_of_a_job(server: HomeServer) -> None:
    """The job of the old folder's file ends, and its copy in the new folder is compressed."""
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready", 30)
        first = server.drop("first.safetensors", seed=1).path
        worker = int(daemon.wait_for_event("worker.started")["pid"])
        daemon.wait_for_file(first, "file.compressed")
        os.kill(worker, signal.SIGSTOP)
        try:
            second = server.drop("second.safetensors", seed=2).path
            wait_until(lambda: bool(server.status()["running"]), "a running job")
            copy = server.top / "copy"
            copy.mkdir()
            shutil.copy2(second, copy / second.name)
            server.loras.rename(server.top / "old")
            copy.rename(server.loras)
        finally:
            os.kill(worker, signal.SIGCONT)
        daemon.wait_for_file(second, "file.compressed")
        wait_until(lambda: not server.status()["running"], "no job is left under way")
        assert daemon.stop() == 0
    assert server.temporaries() == []


def test_started_while_unmounted(server: HomeServer, disk: Disk) -> None:
    """The daemon comes up without the folder, takes no baseline of what shows through, and goes on
    when the disk is there.
    """
    with server.daemon(prefix=namespace(disk.mount(server.loras))) as daemon:
        daemon.wait_for_event("daemon.ready", 30)
        first = put(server, daemon.process.pid, "first.safetensors", 1)
        daemon.wait_for_file(first, "file.compressed")
    decoy = server.drop("decoy.safetensors", seed=2).path
    with server.daemon(prefix=namespace()) as daemon:
        assert degraded(daemon) == "unmounted"
        daemon.wait_for_event("daemon.ready", 30)
        pid = daemon.process.pid
        within(pid, *disk.mount(server.loras))
        daemon.wait_for_event("daemon.recovered", RETURN_SECONDS)
        late = put(server, pid, "late.safetensors", 3)
        daemon.wait_for_file(late, "file.compressed")
    assert daemon.of(first) == []
    assert daemon.of(decoy) == []
    assert count(daemon, "daemon.baseline") == 0


@needs_root
@needs_program("unshare")
@needs_program("nsenter")
def test_moved_to_a_new_disk(server: HomeServer, tmp_path: Path) -> None:
    """A disk in the folder's place that holds its files, with their dates, is the folder now."""
    kept = tmp_path / "kept"
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready", 30)
        first = server.drop("first.safetensors", seed=1).path
        daemon.wait_for_file(first, "file.compressed")
    shutil.copytree(server.loras, kept)
    with server.daemon(prefix=namespace(memory().mount(server.loras))) as daemon:
        assert degraded(daemon) == "mounted_over"
        pid = daemon.process.pid
        shutil.copytree(kept, seen_by(pid, server.loras), dirs_exist_ok=True)
        daemon.wait_for_event("daemon.recovered", RETURN_SECONDS)
        late = put(server, pid, "late.safetensors", 2)
        daemon.wait_for_file(late, "file.compressed")
    assert "file.compressed" not in daemon.of(first)  # what lensd made is not compressed again


def test_started_while_missing(server: HomeServer) -> None:
    """Not even a folder is there: no fault of the configuration if lensd knows it."""
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready", 30)
    server.loras.rename(server.top / "was")
    with server.daemon() as daemon:
        assert degraded(daemon) == "unreachable"
        daemon.wait_for_event("daemon.ready", 30)
        (server.top / "was").rename(server.loras)
        daemon.wait_for_event("daemon.recovered", RETURN_SECONDS)
        daemon.wait_for_file(server.drop("late.safetensors", seed=3).path, "file.compressed")


def test_killed_and_started_while_unmounted(server: HomeServer, disk: Disk) -> None:
    """What a kill left in the folder is put right when its disk is back, and not before."""
    with server.daemon(prefix=namespace(disk.mount(server.loras))) as daemon:
        daemon.wait_for_event("daemon.ready", 30)
        paths = [put(server, daemon.process.pid, "0.safetensors", 0)]
        worker = int(daemon.wait_for_event("worker.started")["pid"])
        daemon.wait_for_event("file.compressed")
        os.kill(worker, signal.SIGSTOP)
        try:
            paths += [put(server, daemon.process.pid, f"{n}.safetensors", n) for n in range(1, 6)]
            wait_until(lambda: bool(server.status()["running"]), "a running job")
            daemon.kill()
        finally:
            os.kill(worker, signal.SIGCONT)
    with server.daemon(prefix=namespace()) as daemon:
        assert degraded(daemon) == "unmounted"
        pid = daemon.process.pid
        within(pid, *disk.mount(server.loras))
        daemon.wait_for_event("daemon.recovered", RETURN_SECONDS)
        wait_until(lambda: server.status()["totals"]["outcomes"].get("compressed") == 6, "6")
        names = sorted(p.name for p in seen_by(pid, server.loras).iterdir())
        assert [p.name for p in paths] == [n for n in names if n != "lost+found"]
    assert count(daemon, "file.rescued") == 0
