"""A long queue across a kill and a restart."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable

import pytest

from lensd import __version__
from lensd.store.identity import Identity
from lensd.store.ledger import Ledger
from tests.support.home_server import HomeServer

FILES = 10_000


def _tiny(number: int) -> bytes:
    """A whole safetensors file that is no LoRA: its job goes all the way to the worker, and ends
    there.
    """
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    header = json.dumps({f"embedding.{number}": entry}).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + number.to_bytes(4, "little")


@pytest.mark.slow
@pytest.mark.fault("restart")
def test_ten_thousand_queued_files(server: HomeServer, tell: Callable[[str], None]) -> None:
    """Killed in the middle: each job ends exactly once, none is lost."""
    server.state.mkdir()
    ledger = Ledger(str(server.state), __version__)
    ledger.baseline(str(server.loras), "loras", [])
    jobs = {}
    with ledger._change() as db:  # one commit for all of them
        for number in range(FILES):
            path = server.loras / f"{number:05}.safetensors"
            path.write_bytes(_tiny(number))
            jobs[str(path)] = f"job{number}"
            identity = Identity.of(path.lstat())
            ledger._insert(
                db, str(server.loras), "loras", path.name, identity, job_id=jobs[str(path)]
            )
    ledger.close()
    with server.daemon() as daemon:
        first = daemon.wait_for_event("daemon.ready", 60)
        for _ in range(20):
            daemon.wait_for_event("file.skipped", 60)
        daemon.kill()
    before = [x for x in daemon.lines if x["event"] == "file.skipped"]
    with server.daemon() as daemon:
        again = daemon.wait_for_event("daemon.ready", 60)
        left = again["queued"]
        for _ in range(left):
            daemon.wait_for_event("file.skipped", 120)
        assert daemon.stop() == 0
    after = [x for x in daemon.lines if x["event"] == "file.skipped"]
    tell(f"{FILES} queued: ready in {first['seconds']} s; {left} left: {again['seconds']} s")
    assert first["queued"] == FILES
    assert 0 < left < FILES
    assert jobs == {x["path"]: x["job_id"] for x in (*before, *after)}
    twice = [path for path, n in Counter(x["path"] for x in (*before, *after)).items() if n > 1]
    assert len(twice) <= 1  # said, but killed before it was written down
    assert len(after) == left
    assert server.status()["queued"] == []
