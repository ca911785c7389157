"""A long queue across a kill and a restart."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable

import pytest

from lensd import __version__
from lensd.store.identity import Identity
from lensd.store.ledger import Ledger, Outcome
from tests.support import suites
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
    """Killed twice in the middle: each file has one job, which ends once; none is lost.

    Worked off to the end under `make test-all` only.
    """
    server.state.mkdir()
    ledger = Ledger(str(server.state), __version__)
    ledger.roots.add(str(server.loras), "loras")
    jobs = {}
    with ledger.together():  # one commit for all of them
        for number in range(FILES):
            path = server.loras / f"{number:05}.safetensors"
            path.write_bytes(_tiny(number))
            jobs[str(path)] = f"job{number}"
            identity = Identity.of(path.lstat())
            job_id = jobs[str(path)]
            ledger.jobs.enqueue(job_id, str(server.loras), "loras", path.name, identity)
    ledger.close()
    ready, ended = [], []
    for number in (5, 20):
        with server.daemon() as daemon:
            ready.append(daemon.wait_for_event("daemon.ready"))
            for _ in range(number):
                daemon.wait_for_event("file.skipped")
            daemon.kill()
        ended += [x for x in daemon.lines if x["event"] == "file.skipped"]
    with server.daemon() as daemon:
        ready.append(daemon.wait_for_event("daemon.ready"))
        for _ in range(ready[-1]["queued"] if suites.FULL else 20):
            daemon.wait_for_event("file.skipped")
        assert daemon.stop() == 0
    ended += [x for x in daemon.lines if x["event"] == "file.skipped"]
    starts = ", ".join(f"{x['seconds']} s with {x['queued']}" for x in ready)
    tell(f"{FILES} queued files, ready in: {starts}; {len(ended)} worked off")
    assert ready[0]["queued"] == FILES
    times = Counter(x["path"] for x in ended)
    # A line may be said again if the kill came before it was noted: one per kill at most.
    assert sum(times.values()) - len(times) <= 2
    assert all(jobs[x["path"]] == x["job_id"] for x in ended)
    ledger = Ledger(str(server.state), __version__, readonly=True)
    queued = {e.full_path: e.job_id for e in ledger.jobs.unfinished()}
    done = {e.full_path: e.job_id for e in ledger.files.with_outcome(Outcome.SKIPPED)}
    ledger.close()
    assert jobs == {**queued, **done}
    assert len(queued) + len(done) == FILES
    assert set(times) <= set(done)
    if suites.FULL:
        assert {} == queued
