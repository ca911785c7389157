"""A real daemon and its real worker, while somebody writes to the file or cuts it off."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors import safe_open

from lensd.errors import Skipped
from lensd.lora import marks
from tests.engine import asking
from tests.faults.scene import sha
from tests.support.home_server import HomeServer, wait_until
from tests.support.limits import LEASE_IS_RELEASED, PATIENCE
from tests.support.marks import needs_program, needs_root
from tests.support.realistic import small_lora
from tests.support.running import RunningDaemon
from tests.support.suites import FULL

pytestmark = pytest.mark.slow

ROUNDS = 400 if FULL else 60


class Versions:
    """Whole files that differ in a few weights only: a counter is written over them."""

    def __init__(self, path: Path) -> None:
        self._bytes = bytearray(small_lora(path, seed=7).path.read_bytes())
        self.written: list[bytes] = []
        path.unlink()

    def next(self) -> bytes:
        tail = len(self.written).to_bytes(2, "little")
        self._bytes[-4:] = bytes([tail[0], 0x20, tail[1], 0x20])  # small float16 numbers
        self.written.append(bytes(self._bytes))
        return self.written[-1]


def in_place(path: Path, content: bytes) -> None:
    """As a trainer that saves again; the kernel holds the opening back while a lease is held."""
    with path.open("r+b") as file:
        file.write(content)
        file.truncate()


def renamed_over(path: Path, content: bytes) -> None:
    """As rsync and browsers do."""
    made = path.with_suffix(".made")
    made.write_bytes(content)
    made.rename(path)


@pytest.mark.fault("written meanwhile")
@pytest.mark.parametrize("ways", [(in_place,), (renamed_over,), (in_place, renamed_over)])
def test_a_racing_writer(
    tmp_path: Path,
    tell: Callable[[str], None],
    ways: tuple[Callable[[Path, bytes], None], ...],
) -> None:
    """At any moment of a job, again and again: the newest bytes win, and no others are made up."""
    server = HomeServer(tmp_path)
    server.configure(settle={"quiet_seconds": 0.05, "unproven_seconds": 0.05})
    versions = Versions(tmp_path / "template.safetensors")
    chance = random.Random(len(ways))  # noqa: S311  moments, not secrets
    path = server.loras / "racing.safetensors"
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        renamed_over(path, versions.next())
        for _ in range(ROUNDS):
            time.sleep(chance.uniform(0.0, 0.25))
            chance.choice(ways)(path, versions.next())
        last = sha(versions.written[-1])
        line = daemon.wait_for(
            lambda line: line.get("sha256_in") == last, "line of the last version"
        )
    assert line["event"] == "file.compressed"
    assert sha(path.read_bytes()) == line["sha256_out"]
    with safe_open(path, framework="pt") as file:
        assert file.metadata()[marks.ORIGINAL] == last
    _nothing_is_made_up(server, path, versions)
    compressed = daemon.of(path).count("file.compressed")
    names = " or ".join(way.__name__ for way in ways)
    tell(f"a racing writer, {names}: {ROUNDS} rounds, {compressed} versions were compressed")


def _nothing_is_made_up(server: HomeServer, path: Path, versions: Versions) -> None:
    whole = set(versions.written)
    assert server.archived(path).read_bytes() == versions.written[-1]
    assert all(p.read_bytes() in whole for p in server.archive.rglob("*.safetensors"))
    assert [] == server.temporaries()


@pytest.mark.fault("truncated meanwhile")
def test_a_file_that_is_cut_off_while_it_is_read(tmp_path: Path) -> None:
    """At each module that the worker comes to: an end of the file's way, never of the process."""
    path = tmp_path / "style.safetensors"
    whole = small_lora(path, seed=3).path.read_bytes()
    steps = 0
    while _cut_off_at(steps, path, whole):
        steps += 1
    assert steps > 12  # each module was read at least twice


def _cut_off_at(step: int, path: Path, whole: bytes) -> bool:
    """False if it was through before that step came."""
    from lensd.engine import task

    path.write_bytes(whole)
    asked = asking.output(path, path.with_name("temporary"))
    seen: list[str] = []

    def progress(stage: str, *_: int) -> None:
        seen.append(stage)
        if len(seen) == step + 1:
            os.truncate(path, len(whole) // 3)

    try:
        task.compress(asked, progress)
    except Skipped as end:
        return end.reason == "changed"
    return False


@needs_root
@needs_program("setpriv")
@pytest.mark.fault("truncated meanwhile")
def test_a_file_that_is_cut_off_during_its_job(tmp_path: Path) -> None:
    """Another owner's file, so that no lease keeps writers away: it costs the job and no more."""
    server = HomeServer(tmp_path)
    with server.daemon(prefix=["setpriv", "--bounding-set", "-lease"]) as daemon:
        daemon.wait_for_event("daemon.ready")
        first = server.drop("first.safetensors", seed=1).path
        worker = daemon.wait_for_event("worker.started")["pid"]
        daemon.wait_for_file(first, "file.compressed")
        path, whole = _held(server, daemon, worker)
        os.truncate(path, len(whole) // 2)
        os.kill(worker, signal.SIGCONT)
        assert daemon.wait_for_file(path)["reason"] == "truncated"
        assert path.read_bytes() == whole[: len(whole) // 2]
        in_place(path, whole)
        line = daemon.wait_for_file(path, "file.compressed")
        assert line["sha256_in"] == sha(whole)
    assert line["lease"] is False
    assert "worker.crashed" not in [line["event"] for line in daemon.lines]
    assert server.archived(path).read_bytes() == whole
    assert [] == server.temporaries()


def _held(server: HomeServer, daemon: RunningDaemon, worker: int) -> tuple[Path, bytes]:
    """A job that has begun, and does not go on before its worker is let go on."""
    os.kill(worker, signal.SIGSTOP)
    made = server.make("held.safetensors", seed=2).path
    whole = made.read_bytes()
    os.chown(made, 65534, 65534)
    path = server.move_in(made)
    daemon.wait_for_file(path, "file.settled")
    wait_until(lambda: bool(server.temporaries()), "the job runs")
    return path, whole


@pytest.mark.fault("truncated meanwhile")
def test_who_cuts_a_file_off_waits_for_the_lease(tmp_path: Path) -> None:
    """lensd lets go at once, and looks at the shorter file as at any other."""
    server = HomeServer(tmp_path)
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        first = server.drop("first.safetensors", seed=1).path
        worker = daemon.wait_for_event("worker.started")["pid"]
        daemon.wait_for_file(first, "file.compressed")
        path, whole = _held(server, daemon, worker)
        cut = threading.Thread(target=os.truncate, args=(path, len(whole) // 2))
        began = time.monotonic()
        cut.start()
        cut.join(PATIENCE)
        assert time.monotonic() - began < LEASE_IS_RELEASED
        assert daemon.wait_for_file(path)["reason"] == "truncated"
    assert path.read_bytes() == whole[: len(whole) // 2]
    assert [] == server.temporaries()
