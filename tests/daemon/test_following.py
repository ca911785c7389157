"""Files that are renamed, moved, copied, deleted or replaced, while they are queued or after."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.conftest import Running
from tests.support.home_server import HomeServer, Seen, wait_until
from tests.support.running import RunningDaemon

MOVED = "file.moved"


def _compressed(server: HomeServer, *names: str) -> dict[str, Seen]:
    """Files that lensd has compressed, and what they were before."""
    before = {}
    for seed, name in enumerate(names):
        path = server.drop(name, seed=seed).path
        before[name] = Seen.of(path)
    server.once()
    return before


def _listed(server: HomeServer) -> list[str]:
    done = server.lensd("restore", "--list")
    assert done.returncode == 0, done.stderr
    return [line.split("  ")[0] for line in done.stdout.splitlines()]


def _settled(server: HomeServer, daemon: RunningDaemon, name: str) -> None:
    """When a file that came later is through, so are those before it."""
    made = server.drop(f"{name}.safetensors", seed=77)
    daemon.wait_for_file(made.path, "file.compressed")


def _is_back(path: Path, before: Seen) -> bool:
    return Seen.of(path)._replace(inode=before.inode) == before


@pytest.mark.slow
def test_a_compressed_file_that_is_renamed(running: Running) -> None:
    """The daemon sees it: mark, ledger and archive follow, and nothing is compressed again."""
    server, daemon = running
    path = server.drop("sub/style.safetensors", seed=1).path
    sha256 = Seen.of(path).sha256
    daemon.wait_for_file(path, "file.compressed")
    output = Seen.of(path)
    new = path.rename(server.loras / "renamed.safetensors")
    line = daemon.wait_for_file(new, MOVED)
    assert line["from_path"] == str(path)
    assert Seen.of(server.archived(new)).sha256 == sha256
    assert not server.archived(path).exists()
    assert str(new) in _listed(server)
    assert str(path) not in _listed(server)
    _settled(server, daemon, "after_rename")
    assert [MOVED] == daemon.of(new)
    assert output == Seen.of(new)


@pytest.mark.slow
def test_a_rename_when_the_archive_has_another_place(server: HomeServer) -> None:
    """The original stays where the ledger says, in the old archive; lensd goes on, and restores."""
    path = server.loras / "style.safetensors"
    before = _compressed(server, path.name)[path.name]
    (server.top / "new archive").mkdir()
    server.configure(archive=server.top / "new archive")
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        new = path.rename(server.loras / "renamed.safetensors")
        daemon.wait_for_file(new, MOVED)
        _settled(server, daemon, "later")
        assert server.lensd("restore", new).returncode == 0
        assert daemon.stop() == 0
    assert _is_back(new, before)


def test_a_copy_of_an_output_takes_nothing_from_it(running: Running) -> None:
    """Both exist: the row and the original stay with the first."""
    server, daemon = running
    path = server.drop("first.safetensors", seed=2).path
    daemon.wait_for_file(path, "file.compressed")
    original = Seen.of(server.archived(path))
    copy = server.loras / "second.safetensors"
    shutil.copy2(path, copy)
    _settled(server, daemon, "after_copy")
    assert MOVED not in daemon.of(copy)
    assert original == Seen.of(server.archived(path))
    assert str(path) in _listed(server)
    copy.unlink()


@pytest.mark.slow
@pytest.mark.fault("undo")
@pytest.mark.parametrize("daemon_sees", [True, False])
def test_restore_follows_a_renamed_folder(server: HomeServer, *, daemon_sees: bool) -> None:
    """`restore NEWPATH`, `--list` and `--all` know where the files are now."""
    names = [f"old/{name}.safetensors" for name in ("a", "b", "c")]
    before = _compressed(server, *names)
    (server.loras / "old").rename(server.loras / "new")
    if daemon_sees:
        assert [MOVED] * 3 == [x["event"] for x in server.once() if x["event"][:5] == "file."]
    new = [server.loras / name.replace("old", "new") for name in names]
    assert sorted(map(str, new)) == sorted(_listed(server))
    assert server.lensd("restore", new[0]).returncode == 0
    assert _is_back(new[0], before[names[0]])
    assert sorted(map(str, new[1:])) == sorted(_listed(server))
    assert server.lensd("restore", "--all").returncode == 0
    assert all(_is_back(path, before[name]) for path, name in zip(new, names, strict=True))
    assert not (server.loras / "old").exists()
    assert [] == _listed(server)
    assert not [x for x in server.once() if x["event"].startswith("file.")]
    assert [] == server.temporaries()


@pytest.mark.slow
def test_a_moved_output_whose_new_place_had_another_original(server: HomeServer) -> None:
    """Nothing in the archive is overwritten: both originals can be had back."""
    before = _compressed(server, "a.safetensors", "b.safetensors")
    a, b = server.loras / "a.safetensors", server.loras / "b.safetensors"
    a.rename(b)
    assert [MOVED] == [x["event"] for x in server.once() if x["event"].startswith("file.")]
    assert [str(b)] == _listed(server)
    assert Seen.of(server.archived(b)).sha256 == before["a.safetensors"].sha256
    older = before["b.safetensors"].sha256
    assert (server.archive / ".versions" / older / "loras" / b.name).exists()
    assert server.lensd("restore", b).returncode == 0
    assert _is_back(b, before["a.safetensors"])
    server.once("--redo", b)
    assert server.lensd("restore", b, "--version", older).returncode == 0
    assert Seen.of(b).sha256 == older


@pytest.mark.slow
def test_two_outputs_that_exchange_their_names(server: HomeServer) -> None:
    """Each row follows its own file."""
    before = _compressed(server, "a.safetensors", "b.safetensors")
    a, b = server.loras / "a.safetensors", server.loras / "b.safetensors"
    a.rename(server.loras / "x")
    b.rename(a)
    (server.loras / "x").rename(b)
    events = [x["event"] for x in server.once() if x["event"].startswith("file.")]
    assert [MOVED, MOVED] == events
    assert server.status()["totals"]["outcomes"]["compressed"] == 2
    assert "replaced" not in server.status()["totals"]["outcomes"]
    assert server.lensd("restore", "--all").returncode == 0
    assert _is_back(a, before["b.safetensors"])
    assert _is_back(b, before["a.safetensors"])


@pytest.mark.slow
def test_a_copy_of_an_output_can_be_restored_too(server: HomeServer) -> None:
    """It gets a copy of the original; the first keeps its own."""
    before = _compressed(server, "a.safetensors")["a.safetensors"]
    a, copy = server.loras / "a.safetensors", server.loras / "copy.safetensors"
    shutil.copy2(a, copy)
    server.once()
    assert server.lensd("restore", copy).returncode == 0
    assert _is_back(copy, before)
    assert [str(a)] == _listed(server)
    assert server.lensd("restore", a).returncode == 0
    assert _is_back(a, before)
    assert not [x for x in server.once() if x["event"].startswith("file.")]


@pytest.mark.slow
def test_an_output_that_moved_across_disks(server: HomeServer) -> None:
    """Another inode: its marks tell which original is its own."""
    before = _compressed(server, "a.safetensors", "stays.safetensors")["a.safetensors"]
    a, new = server.loras / "a.safetensors", server.loras / "sub" / "b.safetensors"
    new.parent.mkdir()
    shutil.copy2(a, new)  # what mv does from one disk to another
    a.unlink()
    assert MOVED in [x["event"] for x in server.once()]
    assert Seen.of(server.archived(new)).sha256 == before.sha256
    assert server.lensd("restore", new).returncode == 0
    assert _is_back(new, before)


@pytest.mark.slow
def test_a_deleted_output(server: HomeServer) -> None:
    """The row and the original stay, through restarts; restore brings it back."""
    before = _compressed(server, "sub/a.safetensors")["sub/a.safetensors"]
    path = server.loras / "sub/a.safetensors"
    shutil.rmtree(path.parent)
    for _ in range(2):
        assert not [x for x in server.once() if x["event"].startswith("file.")]
    assert [str(path)] == _listed(server)
    assert server.lensd("restore", "--all").returncode == 0
    assert _is_back(path, before)


@pytest.mark.slow
def test_two_files_with_one_content(server: HomeServer) -> None:
    """Each has an original of its own, and both come back; also after one was renamed."""
    made = server.make("one.safetensors", seed=5)
    one = server.loras / "one.safetensors"
    two = server.loras / "two.safetensors"
    shutil.copy(made.path, one)
    shutil.copy(made.path, two)
    os.utime(two, (1e9, 1e9))
    before = {path: Seen.of(path) for path in (one, two)}
    events = [x["event"] for x in server.once()]
    assert events.count("file.compressed") == 2
    assert not server.archived(one).samefile(server.archived(two))
    three = two.rename(server.loras / "three.safetensors")
    assert sorted(map(str, (one, three))) == sorted(_listed(server))
    assert server.lensd("restore", "--all").returncode == 0
    assert _is_back(one, before[one])
    assert _is_back(three, before[two])


@pytest.mark.slow
def test_an_original_that_returns_after_a_rename(server: HomeServer) -> None:
    """The history of a path goes along: the third return to the new one is kept."""
    data = server.make("a.safetensors", seed=6).path.read_bytes()
    path, new = server.loras / "a.safetensors", server.loras / "b.safetensors"
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        _put(path, data)
        assert daemon.wait_for_file(path)["event"] == "file.compressed"
        path.rename(new)
        daemon.wait_for_file(new, MOVED)
        _put(new, data)
        assert daemon.wait_for_file(new)["event"] == "file.compressed"
        _put(new, data)
        line = daemon.wait_for_file(new)
        assert ("file.kept", "returned") == (line["event"], line["reason"])
        assert new.read_bytes() == data


def _put(path: Path, data: bytes) -> None:
    other = path.with_name("incoming")
    other.write_bytes(data)
    other.rename(path)


class Held:
    """A daemon whose worker stands still on its first file, so that all others wait."""

    def __init__(self, server: HomeServer, daemon: RunningDaemon) -> None:
        self.server, self.daemon = server, daemon
        self._worker: int | None = None

    def stop_worker(self) -> Path:
        """Let it stand still, with a job; returns that job's file."""
        first = self.server.drop("first.safetensors", seed=50).path
        self._worker = self.daemon.wait_for_event("worker.started")["pid"]
        self.daemon.wait_for_file(first, "file.compressed")
        os.kill(self._worker, signal.SIGSTOP)
        path = self.server.drop("blocks.safetensors", seed=51).path
        wait_until(lambda: str(path) in self._running(), f"a job on {path}")
        return path

    def _running(self) -> list[str]:
        """The files of the jobs that run; the first one may be noted as ended only now."""
        return [job["path"] for job in self.server.status()["running"]]

    def go_on(self, number: int = signal.SIGCONT) -> None:
        """Whatever happens: a worker that stands still would keep the daemon's pipe open."""
        if self._worker is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._worker, number)
            self._worker = None

    def queue(self, relative: str, seed: int) -> tuple[Path, str]:
        path = self.server.drop(relative, seed=seed).path
        return path, self.daemon.wait_for_file(path, "file.settled")["job_id"]


@pytest.fixture
def held(server: HomeServer) -> Iterator[Held]:
    """A first file is paused in the worker: see `Held`."""
    server.configure(
        watch=[
            {"path": str(server.loras)},
            {"path": str(server.top / "other"), "mode": "analyze"},
        ],
        worker={"timeout": 120},
    )
    (server.top / "other").mkdir()
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        held = Held(server, daemon)
        try:
            yield held
        finally:
            held.go_on()


@pytest.mark.slow
def test_queued_files_that_are_renamed_moved_deleted_or_replaced(held: Held) -> None:
    """The job follows its file, with the settings of the new folder; or it ends as vanished; or
    it ends for the file that took the name, which is a new job.
    """
    server, daemon = held.server, held.daemon
    held.stop_worker()
    try:
        names = ("renamed", "moved", "deleted", "replaced", "twin")
        jobs = {name: held.queue(f"sub/{name}.safetensors", i) for i, name in enumerate(names)}
        sizes = {name: Seen.of(path) for name, (path, _) in jobs.items()}
        renamed = jobs["renamed"][0].rename(server.loras / "new name.safetensors")
        moved = jobs["moved"][0].rename(server.top / "other" / "moved.safetensors")
        jobs["deleted"][0].unlink()
        _put(jobs["replaced"][0], server.make("newer", seed=60).path.read_bytes())
        daemon.wait_for_file(jobs["replaced"][0], "file.settled")
        away = jobs["twin"][0].rename(server.loras / "away.safetensors")
        _put(jobs["twin"][0], server.make("other twin", seed=61).path.read_bytes())
        newer_twin = Seen.of(jobs["twin"][0])
        daemon.wait_for_file(jobs["twin"][0], "file.settled")
    finally:
        held.go_on()
    wait_until(lambda: not server.status()["queued"] + server.status()["running"], "no job")
    daemon.stop()
    lines = _drain(daemon)
    ends = {(x["path"], x["event"]): x for x in lines if x["event"].startswith("file.")}
    line = ends[str(renamed), "file.compressed"]
    assert (line["job_id"], line["sha256_in"]) == (jobs["renamed"][1], sizes["renamed"].sha256)
    line = ends[str(moved), "file.analyzed"]
    assert (line["job_id"], line["watch"]) == (jobs["moved"][1], "other")
    line = ends[str(jobs["deleted"][0]), "file.skipped"]
    assert (line["job_id"], line["reason"]) == (jobs["deleted"][1], "vanished")
    line = ends[str(jobs["replaced"][0]), "file.compressed"]
    assert line["job_id"] != jobs["replaced"][1]
    assert line["sha256_in"] != sizes["replaced"].sha256
    line = ends[str(away), "file.compressed"]
    assert (line["job_id"], line["sha256_in"]) == (jobs["twin"][1], sizes["twin"].sha256)
    assert ends[str(jobs["twin"][0]), "file.compressed"]["sha256_in"] == newer_twin.sha256
    vanished = [x["path"] for x in lines if x.get("reason") == "vanished"]
    assert [str(jobs["deleted"][0])] == vanished
    done = [x["path"] for x in lines if x["event"] == "file.compressed"]
    assert len(done) == len(set(done))


def _drain(daemon: RunningDaemon) -> list[dict[str, Any]]:
    """All lines of a daemon that has ended."""
    daemon.__exit__(None, None, None)
    return daemon.lines


@pytest.mark.slow
def test_a_file_that_is_renamed_while_it_is_computed(held: Held) -> None:
    """The job begins again under the new name; it is the same job, and nothing vanished."""
    server, daemon = held.server, held.daemon
    path = held.stop_worker()
    sha256 = Seen.of(path).sha256
    new = path.rename(server.loras / "other name.safetensors")
    held.go_on()
    line = daemon.wait_for_file(new, "file.compressed", "file.skipped")
    settled = next(
        x for x in daemon.lines if (x["event"], x.get("path")) == ("file.settled", str(path))
    )
    assert (line["event"], line["job_id"]) == ("file.compressed", settled["job_id"])
    assert line["sha256_in"] == sha256 == Seen.of(server.archived(new)).sha256
    _settled(server, daemon, "marker")
    assert "file.skipped" not in {x["event"] for x in daemon.lines}
    assert daemon.of(new).count("file.compressed") == 1
    assert not server.archived(path).exists()
    assert [] == server.temporaries()


@pytest.mark.slow
@pytest.mark.parametrize("to_other_root", [False, True])
def test_a_folder_of_all_kinds_is_renamed_while_the_daemon_is_down(
    server: HomeServer, *, to_other_root: bool
) -> None:
    """Baseline, compressed, restored, kept, failed and skipped files: all as they were, also in a
    watched folder that lensd has never seen before.
    """
    other = server.top / "other"
    old, new = server.loras / "old", (other if to_other_root else server.loras) / "new"
    for seed, name in enumerate(("baseline", "baseline2")):
        server.drop(f"old/{name}.safetensors", seed=seed)
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        for seed, name in enumerate(("compressed", "restored"), 10):
            daemon.wait_for_file(server.drop(f"old/{name}.safetensors", seed=seed).path)
        path = server.drop("old/kept.safetensors", seed=20, rank=1).path
        kept = daemon.wait_for_file(path)["event"]
        bad = server.elsewhere / "skipped.safetensors"
        bad.write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{" + b"x" * 40)
        daemon.wait_for_file(server.move_in(bad, "old/skipped.safetensors"), "file.skipped")
    assert kept in ("file.kept", "file.compressed")
    assert server.lensd("restore", old / "restored.safetensors").returncode == 0
    before = {path.name: Seen.of(path) for path in old.iterdir()}
    outcomes = server.status()["totals"]["outcomes"]
    if to_other_root:
        other.mkdir()
        server.configure(watch=[{"path": str(server.loras)}, {"path": str(other)}])
    old.rename(new)
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        _settled(server, daemon, "marker")
    events = {x["event"] for x in daemon.lines if x.get("path", "").startswith(str(new))}
    assert {MOVED} == events
    assert before == {path.name: Seen.of(path) for path in new.iterdir()}
    after = server.status()["totals"]["outcomes"]
    assert {**outcomes, "compressed": outcomes["compressed"] + 1} == after
    assert str(new / "compressed.safetensors") in _listed(server)
    released = [x["event"] for x in server.once(new / "baseline.safetensors")]
    assert "file.compressed" in released


@pytest.mark.slow
def test_a_queue_whose_folder_is_renamed_while_the_daemon_is_down(held: Held) -> None:
    """Every job goes on under its new path, none is lost and none is done twice."""
    server, daemon = held.server, held.daemon
    held.stop_worker()
    jobs = {path.name: job for path, job in (held.queue(f"q/{i}.safetensors", i) for i in range(5))}
    daemon.kill()
    held.go_on(signal.SIGKILL)
    (server.loras / "q").rename(server.loras / "p")
    with server.daemon() as again:
        again.wait_for_event("daemon.ready")
        _settled(server, again, "marker")
        wait_until(lambda: not server.status()["queued"] + server.status()["running"], "done")
    done = {Path(x["path"]).name: x for x in again.lines if x["event"] == "file.compressed"}
    assert {name: done[name]["job_id"] for name in jobs} == jobs
    assert {str(server.loras / "p")} == {os.path.dirname(done[name]["path"]) for name in jobs}
    compressed = [x["path"] for x in again.lines if x["event"] == "file.compressed"]
    assert len(compressed) == len(set(compressed))
    assert "file.skipped" not in {x["event"] for x in again.lines}
