"""No premature job: what is not whole waits, says why, and is taken when it is whole."""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import threading
import time
from pathlib import Path

import pytest

from tests.daemon.conftest import Running
from tests.support.home_server import QUIET, UNPROVEN, HomeServer, Seen, wait_until


def _waiting(server: HomeServer, path: Path) -> str | None:
    """Why `lensd status` says that a file waits."""
    found = [w["reason"] for w in server.status()["waiting"] if w["path"] == str(path)]
    return found[0] if found else None


def test_a_growing_file_is_no_job_until_it_is_whole(running: Running) -> None:
    """A writer slower than the quiet time, which opens and closes the file for every piece."""
    server, daemon = running
    data = server.make("slow", seed=1).path.read_bytes()
    path = server.loras / "slow.safetensors"
    pieces = 4
    for index in range(pieces):
        with path.open("ab") as file:
            file.write(data[index * len(data) // pieces : (index + 1) * len(data) // pieces])
        written = time.monotonic()
        if index < pieces - 1:
            time.sleep(1.5 * QUIET)
    line = daemon.wait_for_file(path)
    assert time.monotonic() - written > QUIET
    assert line["event"] == "file.compressed"
    assert ["file.detected", "file.settled", "file.compressed"] == daemon.of(path)
    assert line["bytes_in"] == len(data)


@pytest.mark.parametrize("suffix", [".aria2", ".part"])
def test_a_partner_file_holds_the_job_back(running: Running, suffix: str) -> None:
    """A whole file (preallocated, say) beside its download's own: waits until that goes."""
    server, daemon = running
    partner = server.loras / f"download{suffix}.safetensors{suffix}"
    partner.touch()
    made = server.drop(f"download{suffix}.safetensors", seed=2)
    wait_until(lambda: _waiting(server, made.path) is not None, "it waits")
    assert partner.name in str(_waiting(server, made.path))
    assert "file.settled" not in daemon.of(made.path)
    before = Seen.of(made.path)
    partner.unlink()
    line = daemon.wait_for_file(made.path)
    assert (line["event"], line["sha256_in"]) == ("file.compressed", before.sha256)
    assert _waiting(server, made.path) is None


def test_an_open_writer_holds_the_job_back(running: Running) -> None:
    """All bytes are there, but a program still has the file open for writing."""
    server, daemon = running
    made = server.make("open.safetensors", seed=3)
    with made.path.open("r+b"):
        path = server.move_in(made.path)
        wait_until(lambda: _waiting(server, path) is not None, "it waits")
        assert "open for writing" in str(_waiting(server, path))
        assert "file.settled" not in daemon.of(path)
    line = daemon.wait_for_file(path)
    assert line["event"] == "file.compressed"


def test_a_file_that_is_being_written_shows_in_status(running: Running) -> None:
    """It is never quiet, so that nothing is proven about it; `status` names it all the same."""
    server, daemon = running
    data = server.make("busy", seed=4).path.read_bytes()
    path = server.loras / "busy.safetensors"
    asked = threading.Event()

    def write() -> None:  # without a pause, also while `status` starts on a busy machine
        with path.open("wb") as file:
            file.write(data[:-1])
            while not asked.wait(QUIET / 10):
                file.flush()
                os.utime(file.fileno())
            file.write(data[-1:])

    writer = threading.Thread(target=write)
    writer.start()
    try:
        wait_until(
            lambda: "being written" in (_waiting(server, path) or ""), "it says why it waits"
        )
    finally:
        asked.set()
        writer.join()
    assert daemon.wait_for_file(path)["event"] == "file.compressed"


def test_a_truncated_file_waits_before_it_is_refused(running: Running) -> None:
    """For `unproven_seconds` it may still be a download that pauses; then it is `truncated`."""
    server, daemon = running
    data = server.make("cut", seed=5).path.read_bytes()
    path = server.loras / "cut.safetensors"
    path.write_bytes(data[:-10])
    line = daemon.wait_for_file(path)
    assert ("file.skipped", "truncated") == (line["event"], line["reason"])
    detected = next(line for line in daemon.lines if line.get("path") == str(path))
    assert _seconds_between(detected["timestamp"], line["timestamp"]) >= UNPROVEN


def test_a_refused_file_that_becomes_whole_is_taken(running: Running) -> None:
    """The download goes on after all."""
    server, daemon = running
    data = server.make("resumed", seed=6).path.read_bytes()
    path = server.loras / "resumed.safetensors"
    path.write_bytes(data[:-10])
    assert daemon.wait_for_file(path)["reason"] == "truncated"
    with path.open("ab") as file:
        file.write(data[-10:])
    assert daemon.wait_for_file(path)["event"] == "file.compressed"


def test_a_file_that_goes_while_it_waits_is_forgotten(running: Running) -> None:
    """No line but its detection, and nothing in `status`."""
    server, daemon = running
    partner = server.loras / "gone.safetensors.crdownload"
    partner.touch()
    made = server.drop("gone.safetensors", seed=7)
    wait_until(lambda: _waiting(server, made.path) is not None, "it waits")
    made.path.unlink()
    wait_until(lambda: _waiting(server, made.path) is None, "it is forgotten")
    other = server.drop("other.safetensors", seed=7)
    daemon.wait_for_file(other.path, "file.compressed")
    assert ["file.detected"] == daemon.of(made.path)
    partner.unlink()


def test_bytes_that_come_during_the_job_win(running: Running) -> None:
    """Rewritten in place as soon as it is a job: the newer bytes are what is archived at last."""
    server, daemon = running
    newer = server.make("newer", seed=9).path.read_bytes()
    made = server.drop("racing.safetensors", seed=8)
    daemon.wait_for_file(made.path, "file.settled")
    with made.path.open("r+b") as file:  # same length, as a trainer that saves again
        file.write(newer)
    line = daemon.wait_for_file(made.path, "file.compressed")
    sha256 = _sha256(newer)
    if line["sha256_in"] != sha256:  # the job was quicker than the writer
        line = daemon.wait_for_file(made.path, "file.compressed")
    assert line["sha256_in"] == sha256
    assert Seen.of(server.archived(made.path)).sha256 == sha256
    assert Seen.of(made.path).sha256 == line["sha256_out"]


def test_a_file_that_replaces_another_during_the_job_wins(running: Running) -> None:
    """Renamed over it, as rsync and browsers do."""
    server, daemon = running
    newer = server.make("newer.safetensors", seed=11)
    sha256 = Seen.of(newer.path).sha256
    made = server.drop("replaced.safetensors", seed=10)
    daemon.wait_for_file(made.path, "file.settled")
    os.replace(newer.path, made.path)
    line = daemon.wait_for_file(made.path, "file.compressed")
    if line["sha256_in"] != sha256:
        line = daemon.wait_for_file(made.path, "file.compressed")
    assert line["sha256_in"] == sha256
    assert Seen.of(made.path).sha256 == line["sha256_out"]


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _seconds_between(first: str, second: str) -> float:
    begin, end = (dt.datetime.fromisoformat(text) for text in (first, second))
    return (end - begin).total_seconds()
