"""The end of the daemon, wanted or not, at any moment; the next start finishes what was begun.

A worker that is stopped (SIGSTOP) holds a job for as long as a test needs it.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from tests.support.home_server import HomeServer, Seen, wait_until
from tests.support.limits import PATIENCE
from tests.support.marks import needs_program
from tests.support.realistic import write_lora
from tests.support.running import RunningDaemon


@contextmanager
def _held_job(
    server: HomeServer, held: Path | None = None
) -> Iterator[tuple[RunningDaemon, Path, int]]:
    """A daemon in the middle of a job, its file, and the worker that does not move."""
    held = held or server.make("held.safetensors", seed=2).path
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        first = server.drop("first.safetensors", seed=1)
        pid = daemon.wait_for_event("worker.started")["pid"]
        daemon.wait_for_file(first.path, "file.compressed")
        os.kill(pid, signal.SIGSTOP)
        path = server.move_in(held)
        daemon.wait_for_file(path, "file.settled")
        wait_until(lambda: bool(server.temporaries()), "the job runs")
        yield daemon, path, pid


def _is_intact(server: HomeServer, path: Path, original: Seen) -> None:
    """One output that loads, the original archived, and nothing left over."""
    assert Seen.of(server.archived(path)).sha256 == original.sha256
    assert path.stat().st_size < original.size
    assert all(torch.isfinite(t.float()).all() for t in load_file(path).values())
    assert [] == server.temporaries()
    assert [p for p in server.archive.rglob("*.safetensors") if p.name == path.name] == [
        server.archived(path)
    ]
    assert not (server.archive / "rescued").exists()


def test_sigterm_in_the_middle_of_a_job(server: HomeServer) -> None:
    """It ends with 0, the file untouched; the job is resumed by the next start."""
    with _held_job(server) as (daemon, path, worker):
        before = Seen.of(path)
        assert daemon.stop() == 0
        assert not Path(f"/proc/{worker}").exists()
    assert [line["event"] for line in daemon.lines][-2:] == ["daemon.stopping", "worker.stopped"]
    assert daemon.lines[-1]["pid"] == worker
    assert before == Seen.of(path)
    assert [] == server.temporaries()
    assert [str(path)] == [job["path"] for job in server.status()["queued"]]
    with server.daemon() as daemon:
        assert daemon.wait_for_event("daemon.ready")["queued"] == 1
        daemon.wait_for_file(path, "file.compressed")
    assert "file.settled" not in daemon.of(path)
    _is_intact(server, path, before)


@pytest.mark.slow
def test_sigterm_while_a_large_file_is_computed(server: HomeServer) -> None:
    """As above, with a worker that has most of its work still before it: within 10 s."""
    made = write_lora(server.elsewhere / "large.safetensors")
    with _held_job(server, made.path) as (daemon, path, worker):
        before = Seen.of(path)
        os.kill(worker, signal.SIGCONT)
        assert daemon.stop(10) == 0
    assert before == Seen.of(path)
    assert [] == server.temporaries()
    with server.daemon() as daemon:
        daemon.wait_for_file(path, "file.compressed")
    _is_intact(server, path, before)


def test_sigint_ends_it_as_well(server: HomeServer) -> None:
    """^C in a terminal."""
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        daemon.process.send_signal(signal.SIGINT)
        assert daemon.wait_for_event("daemon.stopping")["signal"] == "SIGINT"
        assert daemon.process.wait(PATIENCE) == 0


@pytest.mark.slow
def test_sigkill_while_the_worker_computes(server: HomeServer) -> None:
    """The temporary that was left is removed; the worker ends by itself."""
    with _held_job(server) as (daemon, path, worker):
        before = Seen.of(path)
        daemon.kill()
        assert server.temporaries()
        os.kill(worker, signal.SIGCONT)
        wait_until(lambda: not Path(f"/proc/{worker}").exists(), "the worker has left")
    assert before == Seen.of(path)
    with server.daemon() as daemon:
        daemon.wait_for_file(path, "file.compressed")
    _is_intact(server, path, before)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["file.detected", "file.settled", "file.compressed"])
def test_sigkill_when_a_line_is_seen(server: HomeServer, moment: str) -> None:
    """Before the job, in it, and right after: the restart leaves one output and one line."""
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        made = server.make("style.safetensors", seed=3)
        before = Seen.of(made.path)
        path = server.move_in(made.path)
        daemon.wait_for_file(path, moment)
        daemon.kill()
    events = daemon.of(path)
    with server.daemon() as again:
        if "file.compressed" in events:
            later = server.drop("later.safetensors", seed=4).path
            again.wait_for_file(later, "file.compressed")
        else:
            again.wait_for_file(path, "file.compressed")
    events += again.of(path)
    assert events.count("file.compressed") in (1, 2)  # twice: said, but not yet noted as said
    said = [line for line in again.lines if line["event"] == "file.compressed"]
    if events.count("file.compressed") == 2:
        assert next(line for line in said if line["path"] == str(path))["recovered"] is True
    _is_intact(server, path, before)


# The steps of the commit, and some of the ledger's between them. Not fsync: the worker calls it
# too, and would be killed each time instead of the daemon.
CALLS = [
    *(("fdatasync", number) for number in (1, 5, 9, 11, 13)),
    ("linkat", 1),
    ("renameat2", 1),
    ("unlinkat", 1),
]


@pytest.mark.slow
@needs_program("strace")
@pytest.mark.parametrize(("call", "number"), CALLS)
@pytest.mark.fault("killed")
def test_sigkill_at_a_system_call(server: HomeServer, call: str, number: int) -> None:
    """The name always holds the whole old or new file; a restart finishes; no line is lost."""
    server.configure(watch=[{"path": str(server.loras), "existing": "compress"}])
    made = server.drop("style.safetensors", seed=5)
    before = Seen.of(made.path)
    signalled = f"inject={call}:signal=SIGKILL:when={number}"
    trace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e", signalled]
    first = _run_until(server, made.path, prefix=trace)
    now = Seen.of(made.path)
    assert now.sha256 == before.sha256 or Seen.of(server.archived(made.path)).sha256 == (
        before.sha256
    )
    assert load_file(made.path)
    with server.daemon() as again:
        if "file.compressed" not in first:
            again.wait_for_file(made.path, "file.compressed")
        later = server.drop("later.safetensors", seed=6).path
        again.wait_for_file(later, "file.compressed")
    assert (first + again.of(made.path)).count("file.compressed") >= 1
    _is_intact(server, made.path, before)


def _run_until(server: HomeServer, path: Path, prefix: list[str]) -> list[str]:
    """Run a daemon until it dies or the file is through; the file's events."""
    with server.daemon(prefix=prefix) as daemon:
        before = path.stat().st_size
        deadline = time.monotonic() + PATIENCE
        while daemon.process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
            if path.stat().st_size < before and not server.temporaries():
                time.sleep(0.3)  # this call never came that often
                for traced in psutil.Process(daemon.process.pid).children():
                    traced.terminate()  # strace itself does not listen
                daemon.process.wait(PATIENCE)
    return daemon.of(path)
