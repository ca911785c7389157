"""A clock that jumps by a year while a file settles: no job early, none late."""

from __future__ import annotations

import time

import pytest

from tests.support.clock import Clock
from tests.support.home_server import HomeServer, Seen
from tests.support.marks import needs_program

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
        stamps = sorted(line["timestamp"][:4] for line in daemon.lines)
        assert int(stamps[-1]) - int(stamps[0]) == 1  # the daemon did see the jump
