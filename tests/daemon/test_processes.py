"""Several worker processes side by side (`worker.processes`), with one thread that changes files.

A worker that is stopped (SIGSTOP) holds a job for as long as a test needs it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from lensd.daemon import job_thread
from tests.daemon.conftest import started_app
from tests.support.home_server import HomeServer, Seen, wait_until
from tests.support.realistic import small_lora, write_lora
from tests.support.running import Line, RunningDaemon

TWO = {"processes": 2}


@contextmanager
def _held_jobs(
    server: HomeServer,
) -> Iterator[tuple[RunningDaemon, list[Path], list[int]]]:
    """A daemon in the middle of two jobs, their files, and the workers, which do not move.

    It is told of the second process by a reload.
    """
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        server.configure(worker=TWO)
        daemon.process.send_signal(signal.SIGHUP)
        daemon.wait_for_event("daemon.ready")
        assert server.lensd("pause").returncode == 0
        first = [server.drop(f"first-{n}.safetensors", seed=n).path for n in range(2)]
        daemon.wait_for_files(first, "file.settled")
        assert server.lensd("resume").returncode == 0
        workers = [int(daemon.wait_for_event("worker.started")["pid"]) for _ in range(2)]
        wait_until(lambda: not server.status()["running"] + server.status()["queued"], "idle")
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)
        paths = [server.drop(f"held-{n}.safetensors", seed=10 + n).path for n in range(2)]
        wait_until(lambda: len(server.temporaries()) == 2, "two jobs run")
        yield daemon, paths, workers


def _require_compressed(server: HomeServer, before: dict[Path, Seen], lines: list[Line]) -> None:
    """Each file exactly once, its original in the archive, and nothing left over."""
    ends = [Path(line["path"]) for line in lines if line["event"] == "file.compressed"]
    for path, original in before.items():
        assert ends.count(path) == 1, path
        assert Seen.of(server.archived(path)).sha256 == original.sha256
        assert path.stat().st_size < original.size
    assert [] == server.temporaries()
    assert not (server.archive / "rescued").exists()


def test_the_same_bytes_with_one_and_two(tmp_path: Path) -> None:
    """Of each file, by `lensd once`; two processes work for it. Pairs of files are the same.

    The log says how many processes there are.
    """
    outputs = []
    for processes in (1, 2):
        top = tmp_path / str(processes)
        top.mkdir()
        server = HomeServer(top)
        server.configure(worker={"processes": processes})
        for n in range(6):
            small_lora(server.loras / f"{n}.safetensors", seed=n // 2, rank=8 + 48 * (n // 2))
        lines = server.once()
        started = [line for line in lines if line["event"] == "worker.started"]
        assert [line["processes"] for line in started] == [processes] * processes
        ends = [line for line in lines if line["event"] == "file.compressed"]
        outputs.append({Path(line["path"]).name: line["sha256_out"] for line in ends})
    assert len(outputs[0]) == 6
    assert outputs[0] == outputs[1]


def test_two_files_that_wait_begin_together(
    server: HomeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one begins right after the first, not when the thread next looks for jobs."""
    monkeypatch.setattr(job_thread, "LOOK_SECONDS", 3600.0)
    server.configure(worker=TWO, log={"path": str(server.top / "log")})
    running: set[int] = set()
    with started_app(server) as app:
        ledger = app.ledger
        ledger.state.pause(())
        for n in range(2):
            server.drop(f"{n}.safetensors", seed=n)
        wait_until(lambda: ledger.jobs.count_unfinished() == 2, "two files wait")
        wait_until(app.job_thread.idle.is_set, "the job thread has nothing to do")

        def has_ended() -> bool:
            running.add(len(app.context.running))
            return not ledger.jobs.count_unfinished()

        ledger.state.resume(())
        app.job_thread.wake()
        wait_until(has_ended, "both are compressed")
    assert max(running) == 2


@pytest.mark.slow
def test_each_file_is_analyzed_once(server: HomeServer) -> None:
    """Their rows are queued until they end, so that only the daemon knows that they run."""
    server.configure(worker=TWO, defaults={"mode": "analyze"})
    paths = [small_lora(server.loras / f"{n}.safetensors", seed=n).path for n in range(6)]
    lines = [line for line in server.once() if line["event"] == "file.analyzed"]
    assert sorted(line["path"] for line in lines) == sorted(map(str, paths))


@pytest.mark.slow
def test_a_killed_worker_costs_only_its_own_job_an_attempt(server: HomeServer) -> None:
    """The job of the other worker goes on, and both files are compressed."""
    with _held_jobs(server) as (daemon, paths, workers):
        before = {path: Seen.of(path) for path in paths}
        steps = {job["job_id"] for job in server.status()["running"]}
        os.kill(workers[0], signal.SIGKILL)
        crashed = daemon.wait_for_event("worker.crashed")
        assert crashed["pid"] == workers[0]
        assert crashed["job_id"] in steps
        os.kill(workers[1], signal.SIGCONT)
        daemon.wait_for_files(paths, "file.compressed")
        assert daemon.stop() == 0
    _require_compressed(server, before, daemon.lines)
    assert [line["event"] for line in daemon.lines].count("worker.crashed") == 1


@pytest.mark.slow
def test_sigterm_during_two_jobs(server: HomeServer) -> None:
    """Both files stay as they are, and the next start compresses them."""
    with _held_jobs(server) as (daemon, paths, workers):
        before = {path: Seen.of(path) for path in paths}
        assert daemon.stop() == 0
    assert before == {path: Seen.of(path) for path in paths}
    assert [] == server.temporaries()
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    assert len(server.status()["queued"]) == 2
    with server.daemon() as daemon:
        daemon.wait_for_files(paths, "file.compressed")
    _require_compressed(server, before, daemon.lines)


@pytest.mark.slow
@pytest.mark.fault("killed")
def test_sigkill_during_two_jobs(server: HomeServer) -> None:
    """One of them computes and one has an answer; the next start compresses both, once."""
    with _held_jobs(server) as (daemon, paths, workers):
        before = {path: Seen.of(path) for path in paths}
        os.kill(workers[0], signal.SIGCONT)
        daemon.wait_for(lambda line: line["event"] == "file.compressed", "one of the two")
        third = server.drop("third.safetensors", seed=20).path
        before[third] = Seen.of(third)
        daemon.wait_for_file(third, "file.settled")
        daemon.kill()
        lines = list(daemon.lines)
        os.kill(workers[1], signal.SIGCONT)
        wait_until(lambda: not Path(f"/proc/{workers[1]}").exists(), "the worker has ended")
    with server.daemon() as daemon:
        left = [path for path in before if Seen.of(path) == before[path]]
        daemon.wait_for_files(left, "file.compressed")
    _require_compressed(server, before, lines + daemon.lines)


@pytest.mark.slow
@pytest.mark.fault("written meanwhile")
def test_a_program_that_writes_to_one_of_two_files(server: HomeServer) -> None:
    """Its job ends and its file stays; the other job goes on."""
    with _held_jobs(server) as (daemon, paths, workers):
        written, other = paths
        before = {other: Seen.of(other)}
        with written.open("ab") as file:
            file.write(b"x")
        wait_until(lambda: len(server.temporaries()) == 1, "its job has ended")
        for pid in workers:
            with suppress(ProcessLookupError):  # that of the job was ended
                os.kill(pid, signal.SIGCONT)
        daemon.wait_for_file(other, "file.compressed")
        assert daemon.stop() == 0
    _require_compressed(server, before, daemon.lines)
    assert written.read_bytes().endswith(b"x")


def _order(server: HomeServer, paths: Sequence[Path]) -> list[Path]:
    """The order in which a daemon compresses files that are in its queue in this order."""
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        assert server.lensd("pause").returncode == 0
        for path in paths:
            path.parent.mkdir(exist_ok=True)
            (server.elsewhere / path.name).rename(path)
            daemon.wait_for_file(path, "file.settled")
        assert server.lensd("resume").returncode == 0
        return [Path(daemon.wait_for_event("file.compressed")["path"]) for _ in paths]


@pytest.mark.slow
def test_the_folders_take_turns(server: HomeServer) -> None:
    """One file in a folder does not wait for all of another folder, also with one process."""
    other = server.top / "other"
    other.mkdir()
    server.configure(watch=[{"path": str(server.loras)}, {"path": str(other)}])
    many = [server.loras / server.make(f"{n}.safetensors", seed=n).path.name for n in range(4)]
    one = other / server.make("one.safetensors", seed=9).path.name
    order = _order(server, [*many, one])
    assert order.index(one) < 2
    assert [path for path in order if path != one] == many


@pytest.mark.slow
def test_small_files_do_not_wait_for_large_ones(server: HomeServer) -> None:
    """Two large files come first: one process computes one of them, the other the small files."""
    server.configure(worker=TWO)
    large = [write_lora(server.elsewhere / f"large-{n}.safetensors", seed=n).path for n in range(2)]
    small = [server.make(f"small-{n}.safetensors", seed=n).path for n in range(4)]
    order = _order(server, [server.loras / path.name for path in (*large, *small)])
    assert order[-1].name.startswith("large")
