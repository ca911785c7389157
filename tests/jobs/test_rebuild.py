"""A lost or damaged ledger: what marks and archive say comes back, and nothing is done twice."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from watchdog.events import FileOpenedEvent, FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

from lensd.config.load import load
from lensd.jobs.rebuild import rebuild
from lensd.logs.events import Event
from lensd.store.archive import Archive
from lensd.store.fs import temporary_name
from lensd.store.header import encode_header
from lensd.store.ledger import LEDGER, Ledger
from lensd.watcher.baseline import record_baseline
from lensd.watcher.move_tracker import MoveTracker
from tests.faults.one_job import Folder
from tests.support.architectures import Module
from tests.support.home_server import HomeServer, Seen
from tests.support.limits import PATIENCE
from tests.support.running import Line
from tests.watcher.test_one_bug import REFUSE


def _lose(server: HomeServer) -> None:
    shutil.rmtree(server.state)


def _truncate(server: HomeServer) -> None:
    path = server.state / "ledger.sqlite3"
    os.truncate(path, path.stat().st_size // 2 + 7)


def _overwrite(server: HomeServer) -> None:
    with (server.state / "ledger.sqlite3").open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(8192))


def _empty(server: HomeServer) -> None:
    (server.state / "ledger.sqlite3").write_bytes(b"")


LOSSES = [_lose, _truncate, _overwrite, _empty]
NOTHING_LEFT = (_lose, _empty)  # to move aside


@pytest.fixture
def server(tmp_path: Path) -> Iterator[HomeServer]:
    server = HomeServer(tmp_path)
    yield server
    assert [] == [p for p in server.temporaries() if "rescued" not in p.parts]


def _files(server: HomeServer, *names: str) -> dict[str, Seen]:
    """Compressed files, and what they were before."""
    before = {}
    for seed, name in enumerate(names):
        before[name] = Seen.of(server.drop(name, seed=seed).path)
    server.once()
    return before


def _listed(server: HomeServer) -> set[str]:
    done = server.lensd("restore", "--list")
    assert done.returncode == 0, done.stderr
    return {line.split("  ")[0] for line in done.stdout.splitlines()}


def _is_back(path: Path, before: Seen) -> bool:
    return Seen.of(path)._replace(inode=before.inode) == before


def _start(server: HomeServer) -> list[Line]:
    """A daemon starts, takes one new file, and ends; its log."""
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        path = server.drop(f"marker {os.urandom(3).hex()}.safetensors", seed=99).path
        daemon.wait_for_file(path, "file.compressed")
    return [x for x in daemon.lines if x.get("path") != str(path)]


@pytest.mark.slow
@pytest.mark.fault("own output")
@pytest.mark.parametrize("damage", LOSSES)
def test_all_of_it_comes_back(server: HomeServer, damage: Callable[[HomeServer], None]) -> None:
    """Outputs, deleted ones and older originals are known again; nothing is compressed anew."""
    names = ("a.safetensors", "sub/b.safetensors", "deleted.safetensors", "twice.safetensors")
    before = _files(server, *names)
    newer = Seen.of(server.drop("twice.safetensors", seed=9).path)
    server.once()
    (server.loras / "deleted.safetensors").unlink()
    outputs = {p: Seen.of(p) for p in server.loras.rglob("*.safetensors")}
    totals, listed = server.status()["totals"], _listed(server)
    damage(server)
    if damage not in NOTHING_LEFT:
        damaged = (server.state / "ledger.sqlite3").read_bytes()
    events = _start(server)
    [line] = [x for x in events if x["event"] == "daemon.rebuilt"]
    assert (line["files"], line["originals"]) == (3, 2)
    assert not [x for x in events if x["event"].startswith("file.")]
    assert outputs == {p: Seen.of(p) for p in outputs}
    if damage not in NOTHING_LEFT:
        [aside] = [
            p for p in server.state.glob("*.damaged-*") if not p.name.endswith(("wal", "shm"))
        ]
        assert damaged == aside.read_bytes()
        assert str(aside) in line["message"]
    after = server.status()["totals"]
    marker = 1
    assert after["outcomes"]["compressed"] == totals["outcomes"]["compressed"] + marker
    assert after["held_by_archive"] > totals["held_by_archive"]
    assert listed <= _listed(server)
    assert not [x for x in _start(server) if x["event"] == "daemon.rebuilt"]
    twice = server.loras / "twice.safetensors"
    assert server.lensd("restore", "--all").returncode == 0
    assert _is_back(twice, newer)
    assert all(_is_back(server.loras / name, before[name]) for name in names[:3])
    older = before["twice.safetensors"].sha256
    server.once("--redo", twice)
    assert server.lensd("restore", "--version", older, twice).returncode == 0
    assert Seen.of(twice).sha256 == older


@pytest.mark.slow
@pytest.mark.fault("undo")
def test_restore_by_itself_is_enough(server: HomeServer) -> None:
    """No daemon has run since the loss: `--all` finds everything."""
    before = _files(server, "a.safetensors", "sub/b.safetensors", "gone/c.safetensors")
    shutil.rmtree(server.loras / "gone")
    _lose(server)
    done = server.lensd("restore", "--all")
    assert done.returncode == 0, done.stderr
    assert all(_is_back(server.loras / name, seen) for name, seen in before.items())


@pytest.mark.slow
def test_an_output_that_was_renamed_after_the_loss(server: HomeServer) -> None:
    """Its marks and the hash of the original that no output names bring the two together."""
    before = _files(server, "a.safetensors", "b.safetensors")
    _lose(server)
    new = (server.loras / "a.safetensors").rename(server.loras / "new.safetensors")
    events = [x["event"] for x in _start(server)]
    assert {"daemon.rebuilt", "file.moved"} <= set(events)
    assert "file.compressed" not in events
    assert Seen.of(server.archived(new)).sha256 == before["a.safetensors"].sha256
    assert server.lensd("restore", new).returncode == 0
    assert _is_back(new, before["a.safetensors"])


@pytest.mark.slow
@pytest.mark.parametrize("link", [True, False])
def test_an_original_that_was_not_parted_with(server: HomeServer, *, link: bool) -> None:
    """A crash after the exchange, and the ledger lost: the archive has it, so it goes. Other bytes
    are rescued.
    """
    before = _files(server, "sub/a.safetensors")["sub/a.safetensors"]
    archived = server.archived(server.loras / "sub/a.safetensors")
    temporary = server.loras / "sub" / temporary_name("lost")
    if link:
        os.link(archived, temporary)
    else:
        shutil.copy2(archived, temporary)
    others = server.loras / "sub" / temporary_name("others")
    others.write_bytes(os.urandom(archived.stat().st_size))
    mine = others.read_bytes()
    _lose(server)
    events = _start(server)
    [line] = [x for x in events if x["event"] == "file.rescued"]
    assert Path(line["rescued_path"]).read_bytes() == mine
    assert archived.stat().st_nlink == 1
    assert Seen.of(archived).sha256 == before.sha256


@pytest.mark.slow
@pytest.mark.parametrize("existing", ["leave", "compress"])
def test_what_has_no_mark_comes_under_existing(server: HomeServer, existing: str) -> None:
    """A restored file is one that lensd meets first; a third return is still noticed."""
    before = _files(server, "a.safetensors", "restored.safetensors")
    restored = server.loras / "restored.safetensors"
    assert server.lensd("restore", restored).returncode == 0
    _lose(server)
    server.configure(watch=[{"path": str(server.loras), "existing": existing}])
    a = server.loras / "a.safetensors"
    original = server.archived(a).read_bytes()
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        if existing == "compress":
            assert daemon.wait_for_file(restored)["event"] == "file.compressed"
        assert _return(a, original, daemon)["event"] == "file.compressed"
        line = _return(a, original, daemon)
        assert ("file.kept", "returned") == (line["event"], line["reason"])
    same = Seen.of(restored).sha256 == before["restored.safetensors"].sha256
    assert same == (existing == "leave")


def _return(path: Path, data: bytes, daemon: Any) -> Line:
    other = path.with_name("incoming")
    other.write_bytes(data)
    other.rename(path)
    line: Line = daemon.wait_for_file(path)
    return line


@pytest.mark.slow
def test_a_folder_that_is_not_mounted_has_its_turn_later(server: HomeServer) -> None:
    """The ledger was lost while a watched folder was away."""
    before = _files(server, "a.safetensors")["a.safetensors"]
    other = server.top / "other"
    other.mkdir()
    _lose(server)
    away = server.loras.rename(server.top / "away")
    server.configure(watch=[{"path": str(other)}])
    server.once()
    away.rename(server.loras)
    server.configure(watch=[{"path": str(other)}, {"path": str(server.loras)}])
    events = server.once()
    assert [1] == [x["files"] for x in events if x["event"] == "daemon.rebuilt"]
    path = server.loras / "a.safetensors"
    assert server.lensd("restore", path).returncode == 0
    assert _is_back(path, before)


def _verified(server: HomeServer, code: int) -> dict[str, str]:
    """The state of each output by its name."""
    done = server.lensd("verify", "--json")
    assert done.returncode == code, done.stderr + done.stdout
    files = json.loads(done.stdout)["files"]
    assert {"ok"} == {f["state"] for f in files if f["kind"] == "original"}
    return {Path(f["of"]).stem: f["state"] for f in files if f["kind"] == "output"}


@pytest.mark.slow
@pytest.mark.fault("ledger")
def test_an_output_of_a_rebuilt_ledger_is_no_damage(server: HomeServer) -> None:
    """It is unproven, since it may have been edited before; so `prune` keeps its original.

    `restore` and `once --redo`, the remedy, keep a copy of an edited output; so does a redo alone.
    """
    names = ("again", "edited", "fine", "later", "replaced", "rotten")
    before = _files(server, *(f"{name}.safetensors" for name in names))
    path = {name: server.loras / f"{name}.safetensors" for name in names}
    _edit(path["edited"])
    edited = path["edited"].read_bytes()
    _lose(server)
    assert [] == [x for x in server.once() if x["event"] == "file.compressed"]
    assert set(names) == set(_verified(server, 0))
    assert {"unproven"} == set(_verified(server, 0).values())
    _edit(path["later"])
    path["replaced"].write_bytes(b"bytes of another program")
    rotten = path["rotten"].stat()
    path["rotten"].write_bytes(b"\xff" * rotten.st_size)
    os.utime(path["rotten"], ns=(rotten.st_atime_ns, rotten.st_mtime_ns))
    states = dict.fromkeys(names, "unproven") | {"replaced": "changed", "rotten": "damaged"}
    assert states == _verified(server, 1)
    for name in ("edited", "fine"):
        assert server.lensd("restore", path[name]).returncode == 0
        assert _is_back(path[name], before[path[name].name])
        server.once("--redo", path[name])
    assert "file.compressed" in [x["event"] for x in server.once("--redo", path["again"])]
    states |= {"again": "ok", "edited": "ok", "fine": "ok"}
    assert states == _verified(server, 1)
    rescued = [p.read_bytes() for p in (server.archive / "rescued").rglob("*.safetensors")]
    assert edited in rescued


def _edit(path: Path) -> None:
    """Change the last tensor, as a program does that knows the format."""
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def _replace_ledger(server: HomeServer) -> None:
    """Another ledger takes the name, as when a backup is put back."""
    path = server.state / "ledger.sqlite3"
    shutil.copy(path, server.elsewhere / "ledger")
    (server.elsewhere / "ledger").rename(path)


@pytest.mark.slow
@pytest.mark.fault("ledger")
@pytest.mark.parametrize("lose", [_lose, _replace_ledger])
def test_a_ledger_lost_while_lensd_runs(
    server: HomeServer, lose: Callable[[HomeServer], None]
) -> None:
    """The daemon ends with exit code 5 and says why; the next start knows all files again."""
    before = _files(server, "a.safetensors")["a.safetensors"]
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        path = server.drop("b.safetensors", seed=7).path
        daemon.wait_for_file(path, "file.compressed")
        lose(server)
        line = daemon.wait_for_event("daemon.degraded")
        assert "deleted or replaced" in line["message"]
        assert daemon.process.wait(60) == 5
    assert [] == [x for x in _start(server) if x["event"].startswith("file.")]
    assert server.lensd("restore", "--all").returncode == 0
    assert _is_back(server.loras / "a.safetensors", before)


@pytest.mark.slow
@pytest.mark.fault("ledger")
def test_originals_are_hashed_while_no_job_runs(server: HomeServer) -> None:
    """A start that was killed left them to the next one, which is ready and takes a new file."""
    names = [f"{n}.safetensors" for n in range(4)]
    before = _files(server, *names)
    for name in names[1:]:
        (server.loras / name).unlink()
    _lose(server)
    server.state.mkdir()
    [watch] = load(str(server.config)).watch
    with closing(Ledger(str(server.state), "1")) as ledger:
        archive = Archive(str(server.archive))
        found = rebuild(watch, ledger, archive, lambda _: None, hash_bytes=0)
        assert (found.files, found.originals) == (1, 0)
        record_baseline(watch, ledger, MoveTracker([watch], ledger, archive, lambda _: None))
    events = _start(server)
    assert [(0, 3)] == [
        (x["files"], x["originals"]) for x in events if x["event"] == "daemon.rebuilt"
    ]
    assert not [x for x in _start(server) if x["event"] == "daemon.rebuilt"]
    assert set(names) <= {Path(path).name for path in _listed(server)}
    assert server.lensd("restore", "--all").returncode == 0
    assert all(_is_back(server.loras / name, before[name]) for name in names)


@pytest.mark.fault("ledger")
def test_one_file_does_not_end_a_rebuild(tmp_path: Path) -> None:
    """The row of one output is refused, and one original is taken away: the others come back."""
    loras, archived = tmp_path / "loras", tmp_path / "archive/loras"
    for folder in (loras, archived, tmp_path / "state"):
        folder.mkdir(parents=True)
    for name in ("a", "b", "c"):
        original, output = os.urandom(400), loras / f"{name}.safetensors"
        (archived / output.name).write_bytes(original)
        marks = {"lensd.version": "1", "lensd.original_bytes": "400"}
        marks["lensd.original_sha256"] = hashlib.sha256(original).hexdigest()
        output.write_bytes(encode_header([("t", "F32", (1,))], marks) + bytes(4))
    (archived / "deleted.safetensors").write_bytes(os.urandom(400))
    odd = archived / "odd.safetensors"
    odd.write_bytes(os.urandom(400))
    said: list[Event] = []
    with closing(Ledger(str(tmp_path / "state"), "1")) as ledger:
        with closing(sqlite3.connect(tmp_path / "state" / LEDGER)) as db, db:
            db.execute(REFUSE)

        def take_away() -> None:
            if ledger.files.find(str(loras), "a.safetensors"):  # its turn comes soon
                odd.unlink(missing_ok=True)

        archive = Archive(str(tmp_path / "archive"))
        found = rebuild(Folder(str(loras)), ledger, archive, said.append, take_away)
        assert (found.files, found.originals) == (2, 1)
        assert ["file.failed", "daemon.rebuilt"] == [event.name for event in said]
        assert ledger.state.rebuilding.get() == (str(loras),)


COPIES = 2000
TINY = (Module("unet", "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q", 32, 32),)


class _Opened(FileSystemEventHandler):
    """Set when any program opens a file."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def on_opened(self, event: FileSystemEvent) -> None:
        if not event.is_directory:
            self.event.set()


@contextmanager
def _opening(folder: Path) -> Iterator[threading.Event]:
    """Set when a program opens a file in a folder."""
    opened, observer = _Opened(), Observer()
    observer.schedule(opened, str(folder), event_filter=[FileOpenedEvent])
    observer.start()
    yield opened.event
    observer.stop()
    observer.join()


def _copy(server: HomeServer, output: Path, copies: int) -> None:
    """Outputs with originals, in a folder of their own."""
    original = server.archived(output).read_bytes()
    content = output.read_bytes()
    for number in range(copies):
        path = server.loras / "many" / f"{number:05}.safetensors"
        for copy, of in ((path, content), (server.archived(path), original)):
            copy.parent.mkdir(exist_ok=True)
            copy.write_bytes(of)


@pytest.mark.slow
@pytest.mark.fault("ledger")
def test_a_file_that_comes_during_a_rebuild(server: HomeServer) -> None:
    """It is a new file, which `existing: leave` is not about; one that was there is left."""
    server.configure(defaults={"min_saving": 0.0})
    first = server.drop("first.safetensors", modules=TINY).path
    server.once()
    _copy(server, first, COPIES)
    _lose(server)
    there = Seen.of(server.drop("there.safetensors", seed=1).path)
    came = server.make("came.safetensors", seed=2).path
    with _opening(server.loras / "many") as opened, server.daemon() as daemon:
        assert opened.wait(PATIENCE)
        came = server.move_in(came)
        lines = [daemon.wait_for_event(f"daemon.{name}") for name in ("rebuilt", "baseline")]
        assert [COPIES + 1, 1] == [line["files"] for line in lines]
        daemon.wait_for_file(came, "file.compressed")
    assert there == Seen.of(server.loras / "there.safetensors")
