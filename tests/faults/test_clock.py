"""A clock that jumps by a year while a file settles: no job early, none late."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.home_server import HomeServer, Seen
from tests.support.marks import needs_program

QUIET = 3.0


def _library() -> str:
    """libfaketime, as the program `faketime` puts it before another."""
    done = subprocess.run(
        ["faketime", "-f", "+0y", "sh", "-c", "echo $LD_PRELOAD"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.split()[0].split(":")[0]


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
    clock = server.top / "clock"
    _set(clock, "+0y")
    env = {
        "LD_PRELOAD": _library(),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "0" if monotonic == "jumps too" else "1",
    }
    with server.daemon(env=env) as daemon:
        daemon.wait_for_event("daemon.ready", 60)
        for path, to in ((first, jump), (second, "+0y")):  # and back again
            before = Seen.of(path)
            began = time.monotonic()
            path = server.move_in(path)  # noqa: PLW2901
            daemon.wait_for_file(path, "file.detected")
            time.sleep(QUIET / 3)
            _set(clock, to)
            daemon.wait_for_file(path, "file.settled", seconds=QUIET + 20)
            assert time.monotonic() - began >= QUIET
            line = daemon.wait_for_file(path, seconds=60)
            assert (line["event"], line["sha256_in"]) == ("file.compressed", before.sha256)
            assert Seen.of(server.archived(path)).sha256 == before.sha256
        assert [line["event"] for line in daemon.lines].count("file.settled") == 2
        stamps = sorted(line["timestamp"][:4] for line in daemon.lines)
        assert int(stamps[-1]) - int(stamps[0]) == 1  # the daemon did see the jump


def _set(clock: Path, offset: str) -> None:
    """At once: the library reads the file with every question."""
    fresh = clock.with_suffix(".new")
    fresh.write_text(offset)
    os.rename(fresh, clock)
