"""No premature job: what is not whole waits, says why, and is taken when it is whole."""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import signal
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


def _wait_for_reason(server: HomeServer, path: Path, says: str) -> None:
    """Until `lensd status` names this reason for a file."""
    wait_until(lambda: says in str(_waiting(server, path)), f"a reason with {says!r}")


@pytest.mark.fault("half-written")
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
    line = daemon.wait_for_file(path, "file.compressed")
    assert time.monotonic() - written > QUIET
    # On a busy machine this writer may pause for so long that the file is reported as incomplete.
    events = [event for event in daemon.of(path) if event != "file.skipped"]
    assert events == ["file.detected", "file.settled", "file.compressed"]
    assert line["bytes_in"] == len(data)


@pytest.mark.parametrize("suffix", [".aria2", ".part"])
@pytest.mark.fault("half-written")
def test_a_partner_file_holds_the_job_back(running: Running, suffix: str) -> None:
    """A whole file (preallocated, say) beside its download's own: waits until that goes."""
    server, daemon = running
    partner = server.loras / f"download{suffix}.safetensors{suffix}"
    partner.touch()
    made = server.drop(f"download{suffix}.safetensors", seed=2)
    _wait_for_reason(server, made.path, partner.name)
    assert "file.settled" not in daemon.of(made.path)
    before = Seen.of(made.path)
    partner.unlink()
    line = daemon.wait_for_file(made.path)
    assert (line["event"], line["sha256_in"]) == ("file.compressed", before.sha256)
    assert _waiting(server, made.path) is None


@pytest.mark.fault("half-written")
def test_an_open_writer_holds_the_job_back(running: Running) -> None:
    """All bytes are there, but a program still has the file open for writing."""
    server, daemon = running
    made = server.make("open.safetensors", seed=3)
    with made.path.open("r+b"):
        path = server.move_in(made.path)
        _wait_for_reason(server, path, "open for writing")
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
        _wait_for_reason(server, path, "being written")
    finally:
        asked.set()
        writer.join()
    assert daemon.wait_for_file(path)["event"] == "file.compressed"


@pytest.mark.slow
@pytest.mark.fault("half-written")
def test_a_file_of_a_wrong_length_waits_as_long_as_that_lasts(running: Running) -> None:
    """After `unproven_seconds` the log says so, once, for it may never be whole; `status` always.

    One file is too short, another is too long.
    """
    server, daemon = running
    data = server.make("cut", seed=5).path.read_bytes()
    paths = {r: server.loras / f"{r}.safetensors" for r in ("truncated", "bad_header")}
    began = dt.datetime.now(dt.UTC).isoformat()
    paths["truncated"].write_bytes(data[:-10])
    paths["bad_header"].write_bytes(data + bytes(10))
    lines = daemon.wait_for_files(paths.values())
    for reason, path in paths.items():
        line = lines[path]
        assert ("file.skipped", reason) == (line["event"], line["reason"])
        assert _seconds_between(began, line["timestamp"]) >= UNPROVEN
        assert "10 bytes" in line["message"] or f"{len(data)} bytes" in line["message"]
        assert str(_waiting(server, path)).startswith("not whole: ")
    time.sleep(2 * UNPROVEN)
    other = server.drop("beside.safetensors", seed=5)
    daemon.wait_for_file(other.path, "file.compressed")
    for path in paths.values():
        assert ["file.detected", "file.skipped"] == daemon.of(path)
        assert _waiting(server, path) is not None
        path.write_bytes(data)
        assert daemon.wait_for_file(path)["event"] == "file.compressed"
        assert _waiting(server, path) is None


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


def _sparse(path: Path) -> None:
    """One of two modules was never trained, and whoever saved it wrote no zeros."""
    header, data = _parts(path)
    half = len(data) // 2
    with path.open("wb") as file:
        file.write(header + data[:half] + data[half:].replace(data[half : half + 9000], b"", 1))
        file.truncate(len(header) + len(data))
    with path.open("r+b") as file:
        file.seek(-100, os.SEEK_END)
        file.write(data[-100:])


def _zero_tailed(path: Path) -> None:
    header, data = _parts(path)
    path.write_bytes(header + data[:-9000] + bytes(9000))


def _all_zero(path: Path) -> None:
    header, data = _parts(path)
    path.write_bytes(header + bytes(len(data)))


def _parts(path: Path) -> tuple[bytes, bytes]:
    whole = path.read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    return whole[:start], whole[start:]


PREALLOCATED = {_sparse: "holes", _zero_tailed: "zero bytes", _all_zero: "zero bytes"}


@pytest.mark.slow
@pytest.mark.fault("half-written")
def test_whole_files_that_look_preallocated_are_taken_later(server: HomeServer) -> None:
    """With holes or with zeros at the end: not refused, but taken after the longer quiet time.

    Until then `status` says why. That time is an hour first, and then 1.2 s by a reload.
    """
    server.configure(settle={"unproven_seconds": 3600})
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        whole: dict[Path, str] = {}
        for make, says in PREALLOCATED.items():
            made = server.make(f"odd{make.__name__}.safetensors", seed=21, rank=32).path
            make(made)
            sha256 = _sha256(made.read_bytes())
            path = server.move_in(made)
            whole[path] = sha256
            _wait_for_reason(server, path, says)
            assert "after 3600 s" in str(_waiting(server, path))
        server.configure()
        daemon.process.send_signal(signal.SIGHUP)
        lines = daemon.wait_for_files(whole)
        skipped = lines.pop(server.loras / "odd_all_zero.safetensors")
        assert skipped["reason"] == "alpha_zero"
        compressed = {path: line["sha256_in"] for path, line in lines.items()}
        assert compressed == {path: whole[path] for path in lines}
        assert len(lines) == 2
        settled = [line for line in daemon.lines if line["event"] == "file.settled"]
        assert set(whole) == {Path(line["path"]) for line in settled}
        assert min(line["wait"] for line in settled) >= UNPROVEN
        assert [] == server.status()["waiting"]


@pytest.mark.slow
@pytest.mark.fault("half-written")
def test_a_writer_that_ends_begins_the_quiet_time(server: HomeServer) -> None:
    """It held a preallocated file open for longer than that without a change, and was killed."""
    quiet = 6.0
    server.configure(settle={"unproven_seconds": quiet})
    data = server.make("held", seed=22).path.read_bytes()
    path = server.loras / "held.safetensors"
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        with path.open("wb") as file:
            file.truncate(len(data))
            file.write(data[:-9000])
            file.flush()
            _wait_for_reason(server, path, "open for writing")
            time.sleep(quiet + 1)
            ended = time.time()
        line = daemon.wait_for_file(path, "file.settled")
    settled = dt.datetime.fromisoformat(line["timestamp"]).timestamp()
    # The writer was last seen a second ago; a daemon that never saw it would settle at once.
    assert settled - ended >= quiet / 2


@pytest.mark.fault("half-written")
@pytest.mark.slow
@pytest.mark.parametrize("end", ["SIGTERM", "SIGKILL"])
def test_a_restart_in_the_middle_of_a_slow_write(server: HomeServer, end: str) -> None:
    """The next daemon knows nothing of when it was last written: it looks for itself."""
    quiet = 2.0
    server.configure(settle={"quiet_seconds": quiet, "unproven_seconds": 3 * quiet})
    data = server.make("slow", seed=23).path.read_bytes()
    path = server.loras / "slow.safetensors"
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        path.write_bytes(data[:1000])
        daemon.wait_for_file(path, "file.detected")
        if end == "SIGKILL":
            daemon.kill()
    with path.open("ab") as file:
        file.write(data[1000:])
    os.utime(path, (1, 1))  # as a sync program that keeps an old date
    with server.daemon() as daemon:
        # It looks at the file after this line, and before it is ready.
        began = daemon.wait_for_event("daemon.started")["timestamp"]
        settled = daemon.wait_for_file(path, "file.settled")
        line = daemon.wait_for_file(path)
    assert _seconds_between(began, settled["timestamp"]) >= quiet
    assert line["sha256_in"] == _sha256(data)
    assert "file.settled" not in [n["event"] for n in daemon.lines[: daemon.lines.index(settled)]]


@pytest.mark.fault("half-written")
def test_a_rescan_obeys_the_same_rules(server: HomeServer) -> None:
    """A folder that came by a bind mount's back door, say: no event told of the files in it."""
    quiet = 1.0
    server.configure(
        settle={"quiet_seconds": quiet, "unproven_seconds": 3600, "rescan_seconds": 0.5}
    )
    whole = server.make("whole.safetensors", seed=24).path.read_bytes()
    with server.daemon(forked=True) as daemon:
        daemon.wait_for_event("daemon.ready")
        folder = server.elsewhere / "set"
        folder.mkdir()
        for name, data in {
            "whole": whole,
            "cut": whole[:-10],
            "zeros": whole[:-99] + bytes(99),
        }.items():
            (folder / f"{name}.safetensors").write_bytes(data)
        (folder / "part.safetensors").write_bytes(whole)
        (folder / "part.safetensors.part").touch()
        server.loras.rename(server.top / "away")  # its watch goes with it
        folder.rename(server.loras)
        line = daemon.wait_for_event("file.settled")
        assert line["path"] == str(server.loras / "whole.safetensors")
        assert line["wait"] >= quiet
        wait_until(lambda: len(server.status()["waiting"]) == 3, "the others wait")
    assert len([n for n in daemon.lines if n["event"] == "file.settled"]) == 1


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


@pytest.mark.fault("written meanwhile")
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


@pytest.mark.fault("written meanwhile")
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
