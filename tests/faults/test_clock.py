"""A clock that jumps by a year while a file settles: no job early, none late."""

from __future__ import annotations

import datetime as dt
import json
import sqlite3
import time
from contextlib import closing

import pytest

from tests.support.clock import Clock
from tests.support.home_server import HomeServer, Seen
from tests.support.marks import needs_program
from tests.support.running import parse_line

QUIET = 3.0


@pytest.mark.slow
@pytest.mark.fault("clock")
@needs_program("faketime")
@pytest.mark.parametrize("jump", ["+1y", "-1y"])
@pytest.mark.parametrize("monotonic", ["as the kernel has it", "jumps too"])
def test_a_year_forward_or_back(server: HomeServer, jump: str, monotonic: str) -> None:
    """Compressed after its quiet time, by a clock that did not jump, and not long after."""
    server.configure(settle={"quiet_seconds": QUIET, "unproven_seconds": QUIET})
    first = server.make("first.safetensors", seed=1).path
    second = server.make("second.safetensors", seed=2).path
    clock = Clock(server.top / "clock", monotonic=monotonic == "jumps too")
    with server.daemon(env=clock.env) as daemon:
        daemon.wait_for_event("daemon.ready", 60)
        for path, to in ((first, jump), (second, "+0y")):  # and back again
            before = Seen.of(path)
            began = time.monotonic()
            path = server.move_in(path)  # noqa: PLW2901
            daemon.wait_for_file(path, "file.detected")
            time.sleep(QUIET / 3)
            clock.set(to)
            daemon.wait_for_file(path, "file.settled", seconds=QUIET + 20)
            assert time.monotonic() - began >= QUIET
            line = daemon.wait_for_file(path, seconds=60)
            assert (line["event"], line["sha256_in"]) == ("file.compressed", before.sha256)
            assert Seen.of(server.archived(path)).sha256 == before.sha256
        assert [line["event"] for line in daemon.lines].count("file.settled") == 2
        stamps = sorted(dt.datetime.fromisoformat(line["timestamp"]) for line in daemon.lines)
        assert 364 < (stamps[-1] - stamps[0]).days < 367  # the daemon did see the jump


@pytest.mark.slow
@pytest.mark.fault("clock")
@needs_program("faketime")
@pytest.mark.parametrize("again", ["prune", "with the right clock"])
def test_a_clock_400_days_ahead_deletes_no_original(server: HomeServer, again: str) -> None:
    """Nor when the clock is right again. It is in the log, and the command says why."""
    log = server.top / "lensd.log"
    server.configure(keep_days=30, log={"path": str(log)})
    path = server.drop("style.safetensors").path
    server.once()
    ahead = ["faketime", "-f", "+400d"]
    for prefix in (ahead, ahead if again == "prune" else []):
        done = server.lensd("prune", prefix=prefix)
        assert done.returncode == 0, done.stderr
        assert "0 originals deleted" in done.stderr
        if prefix:
            [kept] = [line for line in done.stderr.splitlines() if "stays: " in line]
            assert "the clock was set" in kept
        if prefix != ahead or again == "with the right clock":
            line = parse_line(log.read_text().splitlines()[-1])
            assert line["event"] == "daemon.clock"
            assert abs(line["seconds"]) > 399 * 86400
    assert server.archived(path).exists()


@pytest.mark.slow
@pytest.mark.fault("clock")
@needs_program("faketime")
def test_a_file_that_was_compressed_in_2020_keeps_its_original(server: HomeServer) -> None:
    """The clock is right since then: lensd has seen no day pass, and says so after the pause."""
    server.configure(keep_days=30)
    path = server.drop("style.safetensors").path
    done = server.lensd("once", prefix=["faketime", "2020-01-02 03:04:05"])
    assert done.returncode == 0, done.stderr
    assert "the clock was set" in server.lensd("prune").stderr
    with closing(sqlite3.connect(server.state / "ledger.sqlite3")) as db, db:
        [(mark,)] = db.execute("SELECT value FROM meta WHERE key = 'clock'")
        calm = json.dumps([*json.loads(mark)[:-1], None])  # as if a day had passed
        db.execute("UPDATE meta SET value = ? WHERE key = 'clock'", (calm,))
    for dry in ([], ["--dry-run"]):
        done = server.lensd("prune", *dry)
        assert "seen only 0.0 days" in done.stdout + done.stderr
    assert server.archived(path).exists()
