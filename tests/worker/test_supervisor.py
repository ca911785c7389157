"""The daemon's side of the worker: real child processes that behave well and badly."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from lensd.errors import Outcome, PartialMeasures, Reason, WorkerUnavailable
from lensd.logs.events import Event, WorkerCrashed, WorkerStarted, WorkerStopped
from lensd.lora.parameters import Parameters
from lensd.worker import memory
from lensd.worker.request import AnalyzeRequest, AnalyzeResult, Bug, Refused
from lensd.worker.supervisor import Worker
from lensd.worker.workers import Abandoned, WorkerLost
from tests.support.home_server import wait_until
from tests.support.limits import PATIENCE

REPOSITORY = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.lengthy  # each starts a process

# A worker without torch: the name in the request is what it does. `path` comes back as the family.
SCRIPT = f"""
import os, signal, sys, time
sys.path.append({str(REPOSITORY)!r})
from msgspec import structs
from lensd.errors import Kept, PartialMeasures
from lensd.worker.protocol import serve
from lensd.worker.request import AnalyzeResult
from tests.support.events import ANALYZED
def handle(request, progress):
    deed, _, number = request.name.partition(" ")
    if deed == "refuse":
        known = PartialMeasures(bytes_in=9)
        raise Kept("no_gain", "nothing to be gained", measures=known, disk="/disk")
    if deed == "print":
        print("a library that prints", flush=True)
        os.system("echo and its child")
    if deed == "report":
        for done in range(1, 1001):
            progress("spectrum", done, 1000)
            time.sleep(0.0005)
    if deed == "sleep":
        time.sleep(3600)
    if deed == "grow":
        kept = b"x" * (int(number) << 20)
        time.sleep(3600 if int(number) > 200 else 1)
    if deed == "exit":
        os._exit(7)
    if deed == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if deed == "raise":
        raise KeyError("a bug")
    nice = str(os.nice(0))
    return AnalyzeResult(measures=structs.replace(ANALYZED, family=request.path, naming=nice))
os.nice(int(sys.argv[1]))
serve(handle, "cpu", "0", "python")
"""
Events = list[Event]


def _worker(
    events: Events,
    *,
    timeout: float = PATIENCE,
    script: str = SCRIPT,
    memory_limit: int | None = None,
) -> Worker:
    return Worker(
        (sys.executable, "-c", script),
        events.append,
        timeout,
        idle_exit=60,
        nice=3,
        memory_limit=memory_limit,
    )


def _ask(
    worker: Worker,
    deed: str,
    give_up: Callable[[], bool] | None = None,
    *,
    path: str = "/a",
    job_id: str | None = None,
) -> AnalyzeResult | Refused | Bug:
    request = AnalyzeRequest(
        path=path, name=deed, parameters=Parameters(), device="cpu", job_id=job_id
    )
    answer = worker.request(request, give_up or _never)
    assert isinstance(answer, AnalyzeResult | Refused | Bug)
    return answer


def _never() -> bool:
    return False


def _pid(event: Event) -> int:
    assert isinstance(event, WorkerStarted)
    return event.pid


def test_it_starts_with_the_first_request_and_serves_many() -> None:
    """One process, at its niceness; names that are not UTF-8 pass both ways."""
    events: Events = []
    worker = _worker(events)
    assert not worker.running
    name = os.fsdecode(b"caf\xe9")
    for _ in range(2):
        answer = _ask(worker, "work", path=name)
        assert isinstance(answer, AnalyzeResult)
        assert answer.measures.family == name
        assert answer.measures.naming == str(os.nice(0) + 3)
    [started] = events
    assert isinstance(started, WorkerStarted)
    assert (started.device, started.torch) == ("cpu", "0")
    assert psutil.pid_exists(started.pid)
    worker.stop("idle")
    assert not psutil.pid_exists(started.pid)
    assert events[1:] == [WorkerStopped(pid=started.pid, reason="idle")]
    worker.stop("idle")
    assert len(events) == 2


def test_a_refusal_is_an_answer() -> None:
    """The file's end as it was raised; the process lives on, and so does what it prints."""
    worker = _worker([])
    assert _ask(worker, "refuse") == Refused(
        outcome=Outcome.KEPT,
        reason=Reason.NO_GAIN,
        message="nothing to be gained",
        measures=PartialMeasures(bytes_in=9),
        disk="/disk",
    )
    assert isinstance(_ask(worker, "print"), AnalyzeResult)
    bug = _ask(worker, "raise")
    assert isinstance(bug, Bug)
    assert "KeyError" in bug.traceback
    assert isinstance(_ask(worker, "work"), AnalyzeResult)
    worker.stop("idle")


def test_how_far_it_is_comes_a_few_times_a_second() -> None:
    """Of the job that is asked for; a thousand modules in half a second are no thousand lines."""
    told: list[tuple[str, str, int, int]] = []
    worker = _worker([])
    worker.progress = lambda *line: told.append(line)
    assert isinstance(_ask(worker, "report", job_id="j"), AnalyzeResult)
    worker.progress = None
    assert isinstance(_ask(worker, "report", job_id="k"), AnalyzeResult)
    worker.stop("idle")
    assert told[0] == ("j", "spectrum", 1, 1000)
    assert 2 <= len(told) < 500
    assert all(line[:2] == ("j", "spectrum") for line in told)
    assert [line[2] for line in told] == sorted(line[2] for line in told)


@pytest.mark.parametrize(
    ("deed", "code", "says"), [("exit", 7, "exit code 7"), ("kill", -signal.SIGKILL, "signal 9")]
)
def test_a_worker_that_dies_is_lost_and_the_next_request_gets_another(
    deed: str, code: int, says: str
) -> None:
    """WorkerLost with the reason; the event tells job and exit status."""
    events: Events = []
    worker = _worker(events)
    _ask(worker, "work")
    first = _pid(events[0])
    with pytest.raises(WorkerLost, match=says) as lost:
        _ask(worker, deed, job_id="job")
    assert lost.value.reason == Reason.WORKER_CRASHED
    crashed = events[-1]
    assert isinstance(crashed, WorkerCrashed)
    assert (crashed.exit, crashed.job_id, crashed.pid) == (code, "job", first)
    assert isinstance(_ask(worker, "work"), AnalyzeResult)
    worker.stop("idle")


@pytest.mark.parametrize("stopped", [True, False])
def test_a_worker_that_does_not_finish_is_ended(*, stopped: bool) -> None:
    """After the time for one request, whether it lives (heartbeats) or not."""
    events: Events = []
    worker = _worker(events, timeout=1.0)
    _ask(worker, "work")
    pid = _pid(events[0])
    if stopped:
        os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(WorkerLost, match="within 1 s") as lost:
        _ask(worker, "sleep")
    assert lost.value.reason == Reason.WORKER_TIMEOUT
    assert 1.0 <= time.monotonic() - began < PATIENCE
    assert not psutil.pid_exists(pid)
    assert not worker.running


def test_an_abandoned_request_ends_the_process_soon() -> None:
    """The daemon stops, or another program wrote to the file: the process ends at once."""
    events: Events = []
    worker = _worker(events)
    _ask(worker, "work")
    deadline = time.monotonic() + 0.3
    give_up: Callable[[], bool] = lambda: time.monotonic() > deadline  # noqa: E731
    with pytest.raises(Abandoned):
        _ask(worker, "sleep", give_up)
    assert time.monotonic() < deadline + PATIENCE
    assert not psutil.pid_exists(_pid(events[0]))
    assert isinstance(events[-1], WorkerStopped)


def test_a_worker_that_cannot_start_is_lost() -> None:
    """It ends before it says hello."""
    events: Events = []
    worker = _worker(events, script="raise SystemExit(3)")
    with pytest.raises(WorkerLost, match="exit code 3"):
        _ask(worker, "work")
    crashed = events[-1]
    assert isinstance(crashed, WorkerCrashed)
    assert crashed.exit == 3
    assert not worker.running


@pytest.mark.parametrize("stopped", [False, True])
def test_a_worker_killed_while_idle_costs_the_next_request_nothing(*, stopped: bool) -> None:
    """It is told, without a job, and another one answers."""
    events: Events = []
    worker = _worker(events)
    _ask(worker, "work")
    first = _pid(events[0])
    if stopped:
        os.kill(first, signal.SIGSTOP)
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: psutil.Process(first).status() == psutil.STATUS_ZOMBIE, "it is dead")
    assert isinstance(_ask(worker, "work", job_id="job"), AnalyzeResult)
    started, crashed, again = events
    assert isinstance(started, WorkerStarted)
    assert isinstance(crashed, WorkerCrashed)
    assert isinstance(again, WorkerStarted)
    assert started.pid == crashed.pid == first != again.pid
    assert (crashed.job_id, crashed.exit) == (None, -signal.SIGKILL)
    worker.stop("idle")


def test_a_worker_that_takes_too_much_memory_is_ended() -> None:
    """With the limit and the remedy in the message; the next request gets another process."""
    events: Events = []
    worker = _worker(events, memory_limit=200 << 20)
    began = time.monotonic()
    with pytest.raises(WorkerLost, match=r"memory_limit \(200 MiB; raise it") as lost:
        _ask(worker, "grow 300", job_id="job")
    assert lost.value.reason == Reason.WORKER_MEMORY
    assert time.monotonic() - began < PATIENCE
    crashed = events[-1]
    assert isinstance(crashed, WorkerCrashed)
    assert (crashed.job_id, crashed.exit) == ("job", None)
    assert not psutil.pid_exists(crashed.pid)
    assert isinstance(_ask(worker, "grow 50"), AnalyzeResult)
    worker.stop("idle")


def test_memory_that_only_maps_files_is_not_counted(tmp_path: Path) -> None:
    """Libraries and other files in memory are the kernel's to drop."""
    path = tmp_path / "large"
    path.write_bytes(b"x" * (128 << 20))
    script = (
        "import mmap, sys; f = open(sys.argv[1], 'rb'); m = mmap.mmap(f.fileno(), 0, prot=1);"
        "sum(m[i] for i in range(0, len(m), 4096)); print('read', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == b"read\n"
        assert psutil.Process(process.pid).memory_info().rss > 128 << 20
        assert 1 << 20 < memory.used_bytes(process.pid) < 64 << 20
        process.kill()
    assert memory.used_bytes(process.pid) == 0


def test_a_process_that_cannot_be_started_is_no_fault_of_a_file() -> None:
    """Here no descriptor is free. All jobs wait; the next try has its process."""
    worker = _worker([])
    free = os.dup(0)
    os.close(free)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, limits[1]))
    try:
        with pytest.raises(WorkerUnavailable, match="can be started: Too many open files"):
            _ask(worker, "nothing")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert not worker.is_busy
    assert isinstance(_ask(worker, "nothing"), AnalyzeResult)
    worker.stop("shutdown")
