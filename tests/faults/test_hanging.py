"""A watched folder, or the archive, whose filesystem does not answer: bindfs, which is stopped."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

from lensd.config.load import load
from lensd.jobs.rebuild import rebuild
from lensd.store.archive import Archive
from lensd.store.ledger import Ledger
from lensd.watcher.baseline import record_baseline
from lensd.watcher.move_tracker import MoveTracker
from tests.support.disks import fill, tmpfs
from tests.support.hanging import BindFs
from tests.support.home_server import HomeServer, Seen, wait_until
from tests.support.marks import needs_program, needs_root
from tests.support.running import Line, RunningDaemon

pytestmark = [
    pytest.mark.slow,
    pytest.mark.fault("hanging"),
    needs_root,
    needs_program("bindfs"),
]

HANGS_SECONDS = 30  # until the folder is degraded
STOP_SECONDS = 12
LAST_SECONDS = 30


class Home(HomeServer):
    """`loras` is a usual folder, `nas` one of bindfs."""

    def __init__(self, top: Path) -> None:
        super().__init__(top)
        self.nas = top / "nas"

    def put(self, folder: Path, name: str, seed: int) -> Path:
        """A finished LoRA in a folder."""
        path = folder / name
        shutil.copyfile(self.make(name, seed=seed).path, path)
        return path


@pytest.fixture
def server(tmp_path: Path) -> Home:
    server = Home(tmp_path)
    server.configure(watch=[{"path": str(server.nas)}, {"path": str(server.loras)}])
    return server


@pytest.fixture
def nas(server: Home) -> Iterator[BindFs]:
    with BindFs(server.top / "source", server.nas) as nas:
        yield nas


def is_degraded(daemon: RunningDaemon, path: Path) -> Line:
    """The line that must come in time."""
    line = daemon.wait_for_event("daemon.degraded", HANGS_SECONDS)
    assert (line["reason"], line["path"]) == ("not_responding", str(path))
    return line


def has_recovered(daemon: RunningDaemon, path: Path) -> None:
    line = daemon.wait_for_event("daemon.recovered", HANGS_SECONDS)
    assert (line["reason"], line["path"]) == ("not_responding", str(path))


def stop(daemon: RunningDaemon) -> float:
    """Seconds from SIGTERM to the end."""
    began = time.monotonic()
    assert daemon.stop(STOP_SECONDS) == 0
    return time.monotonic() - began


def test_the_other_folders_go_on(server: Home, nas: BindFs) -> None:
    """Before and after the hang is noticed, and once the folder answers its new files are seen."""
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        first = server.put(server.nas, "first.safetensors", 1)
        daemon.wait_for_file(first, "file.compressed")
        nas.hang()
        second = server.put(server.loras, "second.safetensors", 2)
        server.put(nas.source, "late.safetensors", 3)
        both = ("file.compressed", "daemon.degraded")  # in any order
        lines = [
            daemon.wait_for(lambda line: line["event"] in both, " or ".join(both), HANGS_SECONDS)
            for _ in both
        ]
        found = {line["event"]: line for line in lines}
        assert found["file.compressed"]["path"] == str(second)
        assert found["daemon.degraded"]["reason"] == "not_responding"
        assert found["daemon.degraded"]["path"] == str(server.nas)
        third = server.put(server.loras, "third.safetensors", 4)
        daemon.wait_for_file(third, "file.compressed")

        shown = server.lensd("status", "--json")
        (degraded,) = json.loads(shown.stdout)["degraded"]
        assert (degraded["watch"], degraded["reason"]) == ("nas", "not_responding")
        refused = server.lensd("restore", "--all")
        assert refused.returncode != 0
        assert "does not answer" in refused.stderr
        assert server.lensd("restore", str(second)).returncode == 0

        nas.answer()
        has_recovered(daemon, server.nas)
        daemon.wait_for_file(server.nas / "late.safetensors", "file.compressed")
        assert server.status()["degraded"] == []
        later = server.put(server.nas, "later.safetensors", 5)
        daemon.wait_for_file(later, "file.compressed")
        assert stop(daemon) < STOP_SECONDS


def test_sigterm(server: Home, nas: BindFs) -> None:
    """At once after the server hangs, when lensd does not know it yet, and later."""
    for wait in (False, True):
        with server.daemon() as daemon:
            daemon.wait_for_event("daemon.ready")
            nas.hang()
            if wait:
                is_degraded(daemon, server.nas)
            else:
                server.put(server.loras, "style.safetensors", 1)
                time.sleep(6)  # a check of the folder has begun
            assert stop(daemon) < STOP_SECONDS
        nas.answer()


def begin_job(server: Home, nas: BindFs, daemon: RunningDaemon) -> tuple[Path, Seen]:
    """A job in the folder, which hangs in the middle of it; its file, as it is before."""
    daemon.wait_for_event("daemon.ready")
    first = server.put(server.nas, "first.safetensors", 1)
    worker = daemon.wait_for_event("worker.started")["pid"]
    daemon.wait_for_file(first, "file.compressed")
    os.kill(worker, signal.SIGSTOP)
    path = server.put(server.nas, "held.safetensors", 2)
    before = Seen.of(path)
    daemon.wait_for_file(path, "file.settled")
    wait_until(lambda: any(nas.source.glob(".lensd*")), "the job runs")
    nas.hang()
    os.kill(worker, signal.SIGCONT)
    is_degraded(daemon, server.nas)
    return path, before


def test_sigterm_during_a_job_in_the_folder(server: Home, nas: BindFs) -> None:
    """The next start begins the job again."""
    with server.daemon() as daemon:
        path, before = begin_job(server, nas, daemon)
        assert stop(daemon) < STOP_SECONDS
    nas.answer()
    with server.daemon() as daemon:
        daemon.wait_for_file(path, "file.compressed")
    assert Seen.of(server.archive / "nas/held.safetensors").sha256 == before.sha256
    assert not any(nas.source.glob(".lensd*"))


def test_a_job_in_the_folder(server: Home, nas: BindFs) -> None:
    """It is left to its thread and goes on when the folder answers; other jobs do not wait."""
    with server.daemon() as daemon:
        path, before = begin_job(server, nas, daemon)
        second = server.put(server.loras, "second.safetensors", 3)
        daemon.wait_for_file(second, "file.compressed")

        nas.answer()
        daemon.wait_for_file(path, "file.compressed")
        third = server.put(server.nas, "third.safetensors", 4)
        daemon.wait_for_file(third, "file.compressed")
        assert stop(daemon) < STOP_SECONDS
    assert daemon.of(path).count("file.compressed") == 1
    assert Seen.of(server.archive / "nas/held.safetensors").sha256 == before.sha256
    assert not any(nas.source.glob(".lensd*"))


def test_jobs_in_two_folders_that_hang_at_once(server: Home, nas: BindFs) -> None:
    """With two processes: both jobs are left to their threads, and the third folder goes on."""
    folders = (server.nas, server.top / "usb")
    server.configure(
        watch=[{"path": str(folder)} for folder in (*folders, server.loras)],
        worker={"processes": 2},
    )
    with BindFs(server.top / "usb-source", folders[1]) as usb, server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        held = _hold_a_job_in_each(server, daemon, folders)
        for disk in (nas, usb):
            disk.hang()
        for worker in held.workers:
            os.kill(worker, signal.SIGCONT)
        lines = [daemon.wait_for_event("daemon.degraded", HANGS_SECONDS) for _ in folders]
        assert {line["path"] for line in lines} == {str(folder) for folder in folders}
        assert {line["reason"] for line in lines} == {"not_responding"}
        others = [server.put(server.loras, f"{n}.safetensors", 10 + n) for n in range(2)]
        daemon.wait_for_files(others, "file.compressed")

        for disk in (nas, usb):
            disk.answer()
        daemon.wait_for_files(held.before, "file.compressed")
        assert stop(daemon) < STOP_SECONDS
        for path, before in held.before.items():
            assert daemon.of(path).count("file.compressed") == 1
            archived = server.archive / path.relative_to(server.top)
            assert Seen.of(archived).sha256 == before.sha256
            assert not any(path.parent.glob(".lensd*"))


class Held(NamedTuple):
    """The worker processes, which are stopped, and the files of their jobs as they are before."""

    workers: list[int]
    before: dict[Path, Seen]


def _hold_a_job_in_each(server: Home, daemon: RunningDaemon, folders: Sequence[Path]) -> Held:
    assert server.lensd("pause").returncode == 0
    first = [server.put(folder, "first.safetensors", n) for n, folder in enumerate(folders)]
    daemon.wait_for_files(first, "file.settled")
    assert server.lensd("resume").returncode == 0
    daemon.wait_for_files(first, "file.compressed")
    workers = [int(x["pid"]) for x in daemon.lines if x["event"] == "worker.started"]
    assert len(workers) == len(folders)
    wait_until(lambda: is_idle(server), "idle")
    for worker in workers:
        os.kill(worker, signal.SIGSTOP)
    paths = [server.put(folder, "held.safetensors", 5 + n) for n, folder in enumerate(folders)]
    before = {path: Seen.of(path) for path in paths}
    wait_until(lambda: all(any(f.glob(".lensd*")) for f in folders), "both jobs run")
    return Held(workers, before)


def is_idle(server: Home) -> bool:
    """By one look: between two, a queued job can begin."""
    status = server.status()
    return not status["running"] and not status["queued"]


def test_a_start_while_it_hangs(server: Home, nas: BindFs) -> None:
    """lensd is ready without the folder, which it takes up later, with its new files."""
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
    nas.hang()
    with server.daemon() as daemon:
        is_degraded(daemon, server.nas)
        daemon.wait_for_event("daemon.ready")
        first = server.put(server.loras, "first.safetensors", 1)
        daemon.wait_for_file(first, "file.compressed")
        server.put(nas.source, "late.safetensors", 2)
        nas.answer()
        has_recovered(daemon, server.nas)
        daemon.wait_for_file(server.nas / "late.safetensors", "file.compressed")


def test_a_reload_while_it_hangs(server: Home, nas: BindFs) -> None:
    """The new settings hold for the other folders at once, and for this one when it answers."""
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        nas.hang()
        is_degraded(daemon, server.nas)
        watch = [{"path": str(server.nas)}, {"path": str(server.loras)}]
        server.configure(watch=watch, defaults={"mode": "rank"})
        daemon.process.send_signal(signal.SIGHUP)
        daemon.wait_for_event("daemon.reloaded")
        daemon.wait_for_event("daemon.ready")
        first = server.put(server.loras, "first.safetensors", 1)
        assert daemon.wait_for_file(first, "file.compressed")["mode"] == "rank"
        server.put(nas.source, "late.safetensors", 2)
        nas.answer()
        has_recovered(daemon, server.nas)
        late = server.nas / "late.safetensors"
        assert daemon.wait_for_file(late, "file.compressed")["mode"] == "rank"


def test_a_full_disk_that_hangs(server: Home) -> None:
    """No thread looks whether it has room; the jobs in it continue when it answers and has."""
    with tmpfs(server.top / "source", "4m") as source, BindFs(source, server.nas) as nas:
        ballast = fill(source, leave=2**20)
        with server.daemon() as daemon:
            daemon.wait_for_event("daemon.ready")
            assert server.lensd("pause").returncode == 0
            waits = server.put(server.nas, "waits.safetensors", 1)
            daemon.wait_for_file(waits, "file.settled")
            rest = fill(source, leave=0, name="rest")
            assert server.lensd("resume").returncode == 0
            assert daemon.wait_for_event("daemon.degraded")["reason"] == "no_space"
            nas.hang()
            is_degraded(daemon, server.nas)
            for seed in (2, 3):
                path = server.put(server.loras, f"{seed}.safetensors", seed)
                daemon.wait_for_file(path, "file.compressed")
            ballast.unlink()
            rest.unlink()
            nas.answer()
            has_recovered(daemon, server.nas)
            daemon.wait_for_file(waits, "file.compressed")
            assert stop(daemon) < STOP_SECONDS


def lose_ledger_in_a_rebuild(server: Home) -> None:
    """A start made another one and was killed before it had hashed the originals."""
    shutil.rmtree(server.state)
    server.state.mkdir()
    watches = load(str(server.config)).watch
    archive = Archive(str(server.archive))
    with closing(Ledger(str(server.state), "1")) as ledger:
        for watch in watches:
            rebuild(watch, ledger, archive, lambda _: None, hash_bytes=0)
            moves = MoveTracker(watches, ledger, archive, lambda _: None)
            record_baseline(watch, ledger, moves)


def test_a_rebuild_while_it_hangs(server: Home, nas: BindFs) -> None:
    """The originals of the other folders are hashed, and those of this one when it answers."""
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        for seed, folder in enumerate((server.nas, server.loras)):
            path = server.put(folder, "style.safetensors", seed)
            daemon.wait_for_file(path, "file.compressed")
            path.unlink()
        assert stop(daemon) < STOP_SECONDS
    lose_ledger_in_a_rebuild(server)
    nas.hang()
    with server.daemon() as daemon:
        is_degraded(daemon, server.nas)
        assert daemon.wait_for_event("daemon.rebuilt")["watch"] == "loras"
        nas.answer()
        assert daemon.wait_for_event("daemon.rebuilt")["watch"] == "nas"
        assert stop(daemon) < STOP_SECONDS


def test_an_archive_that_hangs(server: Home) -> None:
    """All jobs wait for it, and SIGTERM ends lensd nevertheless."""
    server.configure()
    with BindFs(server.top / "source", server.archive) as archive:
        with server.daemon() as daemon:
            daemon.wait_for_event("daemon.ready")
            first = server.put(server.loras, "first.safetensors", 1)
            daemon.wait_for_file(first, "file.compressed")
            archive.hang()
            is_degraded(daemon, server.archive)
            second = server.put(server.loras, "second.safetensors", 2)
            archive.answer()
            has_recovered(daemon, server.archive)
            daemon.wait_for_file(second, "file.compressed")
            archive.hang()
            is_degraded(daemon, server.archive)
            server.put(server.loras, "third.safetensors", 3)
            assert stop(daemon) < STOP_SECONDS
        archive.answer()


def test_a_start_while_the_archive_hangs(server: Home) -> None:
    """lensd ends, names the folder, and systemd starts it again until the archive answers."""
    server.configure()
    with BindFs(server.top / "source", server.archive) as archive:
        archive.hang()
        done = server.lensd("run")
        archive.answer()
        assert done.returncode == 5
        assert f"{server.archive} (archive.path) does not answer" in done.stderr
        with server.daemon() as daemon:
            daemon.wait_for_event("daemon.ready")


def has_ended(daemon: RunningDaemon) -> bool:
    """Also while the kernel still writes its shared memory to the filesystem that hangs."""
    if daemon.process.poll() is not None:
        return True
    return Path(f"/proc/{daemon.process.pid}/cmdline").read_bytes() == b""


def test_a_state_folder_that_hangs(server: Home) -> None:
    """lensd can do nothing without its ledger, but SIGTERM ends it."""
    server.configure()
    with BindFs(server.top / "source", server.state) as state, server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        first = server.put(server.loras, "first.safetensors", 1)
        daemon.wait_for_file(first, "file.compressed")
        state.hang()
        server.put(server.loras, "second.safetensors", 2)
        daemon.process.send_signal(signal.SIGTERM)
        daemon.wait_for_event("daemon.stopping", 5)
        try:
            wait_until(lambda: has_ended(daemon), "ended", LAST_SECONDS)
        finally:
            state.answer()
        assert daemon.process.wait(LAST_SECONDS) == 0


def test_a_state_folder_that_hangs_for_longer(server: Home) -> None:
    """The main loop asks for the ledger's name, and is not held by the answer."""
    server.configure()
    with BindFs(server.top / "source", server.state) as state, server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        state.hang()
        time.sleep(6)  # it has asked
        daemon.process.send_signal(signal.SIGTERM)
        try:
            daemon.wait_for_event("daemon.stopping", 5)
        finally:
            state.answer()
        assert daemon.process.wait(LAST_SECONDS) == 0
