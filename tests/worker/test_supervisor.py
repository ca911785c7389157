"""The daemon's side of the worker: real child processes that behave well and badly."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from lensd.worker import memory
from lensd.worker.supervisor import Abandoned, Worker, WorkerLost
from tests.support.home_server import wait_until
from tests.support.limits import PATIENCE

pytestmark = pytest.mark.lengthy  # each starts a process

# A worker without torch: it does what the request says.
SCRIPT = """
import os, signal, sys, time
from lensd.errors import Kept
from lensd.worker.protocol import serve
def handle(request, progress):
    if request["do"] == "refuse":
        raise Kept("no_gain", "nothing to be gained")
    if request["do"] == "print":
        print("a library that prints", flush=True)
        os.system("echo and its child")
    if request["do"] == "tell":
        for done in range(1, 1001):
            progress("spectrum", done, 1000)
            time.sleep(0.0005)
    if request["do"] == "sleep":
        time.sleep(3600)
    if request["do"] == "grow":
        kept = b"x" * (request["mib"] << 20)
        time.sleep(request["seconds"])
    if request["do"] == "exit":
        os._exit(7)
    if request["do"] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    return {"did": request["do"], "name": request.get("name"), "nice": os.nice(0)}
os.nice(int(sys.argv[1]))
serve(handle, {"device": "cpu", "torch": "0"})
"""
Events = list[tuple[str, dict[str, Any]]]


def _worker(
    events: Events,
    *,
    timeout: float = PATIENCE,
    script: str = SCRIPT,
    memory_limit: int | None = None,
) -> Worker:
    def tell(event: str, **fields: Any) -> None:
        events.append((event, fields))

    return Worker(
        (sys.executable, "-c", script),
        tell,
        timeout,
        idle_exit=60,
        nice=3,
        memory_limit=memory_limit,
    )


def _never() -> bool:
    return False


def test_it_starts_with_the_first_request_and_serves_many() -> None:
    """One process, at its niceness; names that are not UTF-8 pass both ways."""
    events: Events = []
    worker = _worker(events)
    assert not worker.running
    name = os.fsdecode(b"caf\xe9")
    answers = [worker.request({"do": "work", "name": name}, _never) for _ in range(2)]
    assert [a["name"] for a in answers] == [name, name]
    assert answers[0]["nice"] == os.nice(0) + 3
    [(event, fields)] = events
    assert (event, fields["device"], fields["torch"]) == ("worker.started", "cpu", "0")
    assert psutil.pid_exists(fields["pid"])
    worker.stop("idle")
    assert not psutil.pid_exists(fields["pid"])
    assert events[1:] == [("worker.stopped", {"pid": fields["pid"], "reason": "idle"})]
    worker.stop("idle")
    assert len(events) == 2


def test_a_refusal_is_an_answer() -> None:
    """The file's end as it was raised; the process lives on, and so does what it prints."""
    worker = _worker([])
    answer = worker.request({"do": "refuse"}, _never)
    assert (answer["type"], answer["event"], answer["reason"]) == (
        "refused", "file.kept", "no_gain",
    )  # fmt: skip
    assert worker.request({"do": "print"}, _never)["did"] == "print"
    bug = worker.request({}, _never)
    assert bug["type"] == "bug"
    assert "KeyError" in bug["message"]
    assert worker.request({"do": "work"}, _never)["type"] == "result"
    worker.stop("idle")


def test_how_far_it_is_comes_a_few_times_a_second() -> None:
    """Of the job that is asked for; a thousand modules in half a second are no thousand lines."""
    told: list[tuple[str, str, int, int]] = []
    worker = _worker([])
    worker.progress = lambda *line: told.append(line)
    assert worker.request({"do": "tell", "job_id": "j"}, _never)["type"] == "result"
    worker.progress = None
    assert worker.request({"do": "tell", "job_id": "k"}, _never)["type"] == "result"
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
    worker.request({"do": "work"}, _never)
    first = events[0][1]["pid"]
    with pytest.raises(WorkerLost, match=says) as lost:
        worker.request({"do": deed, "job_id": "job"}, _never)
    assert lost.value.reason == "worker_crashed"
    event, fields = events[-1]
    assert event == "worker.crashed"
    assert (fields["exit"], fields["job_id"], fields["pid"]) == (code, "job", first)
    assert worker.request({"do": "work"}, _never)["did"] == "work"
    worker.stop("idle")


@pytest.mark.parametrize("stopped", [True, False])
def test_a_worker_that_does_not_finish_is_ended(*, stopped: bool) -> None:
    """After the time for one request, whether it lives (heartbeats) or not."""
    events: Events = []
    worker = _worker(events, timeout=1.0)
    worker.request({"do": "work"}, _never)
    pid = events[0][1]["pid"]
    if stopped:
        os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(WorkerLost, match="within 1 s") as lost:
        worker.request({"do": "sleep"}, _never)
    assert lost.value.reason == "worker_timeout"
    assert 1.0 <= time.monotonic() - began < PATIENCE
    assert not psutil.pid_exists(pid)
    assert not worker.running


def test_an_abandoned_request_ends_the_process_soon() -> None:
    """The daemon stops, or somebody wrote to the file: no time is lost on it."""
    events: Events = []
    worker = _worker(events)
    worker.request({"do": "work"}, _never)
    began = time.monotonic()
    with pytest.raises(Abandoned):
        worker.request({"do": "sleep"}, lambda: time.monotonic() > began + 0.3)
    assert time.monotonic() < began + PATIENCE
    assert not psutil.pid_exists(events[0][1]["pid"])
    assert events[-1][0] == "worker.stopped"


def test_a_worker_that_cannot_start_is_lost() -> None:
    """It ends before it says hello."""
    events: Events = []
    worker = _worker(events, script="raise SystemExit(3)")
    with pytest.raises(WorkerLost, match="exit code 3"):
        worker.request({"do": "work"}, _never)
    assert events[-1][1]["exit"] == 3
    assert not worker.running


@pytest.mark.parametrize("stopped", [False, True])
def test_a_worker_killed_while_idle_costs_the_next_request_nothing(*, stopped: bool) -> None:
    """It is told, without a job, and another one answers."""
    events: Events = []
    worker = _worker(events)
    worker.request({"do": "work"}, _never)
    first = events[0][1]["pid"]
    if stopped:
        os.kill(first, signal.SIGSTOP)
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: psutil.Process(first).status() == psutil.STATUS_ZOMBIE, "it is dead")
    assert worker.request({"do": "work", "job_id": "job"}, _never)["did"] == "work"
    told = [(event, fields.get("job_id"), fields["pid"] == first) for event, fields in events]
    assert told == [
        ("worker.started", None, True),
        ("worker.crashed", None, True),
        ("worker.started", None, False),
    ]
    assert events[1][1]["exit"] == -signal.SIGKILL
    worker.stop("idle")


def test_a_worker_that_takes_too_much_memory_is_ended() -> None:
    """With the limit and the remedy in the message; the next request gets another process."""
    events: Events = []
    worker = _worker(events, memory_limit=200 << 20)
    began = time.monotonic()
    with pytest.raises(WorkerLost, match=r"memory_limit \(200 MiB; raise it") as lost:
        worker.request({"do": "grow", "mib": 300, "seconds": 3600, "job_id": "job"}, _never)
    assert lost.value.reason == "worker_memory"
    assert time.monotonic() - began < PATIENCE
    event, fields = events[-1]
    assert (event, fields["job_id"], fields["exit"]) == ("worker.crashed", "job", None)
    assert not psutil.pid_exists(fields["pid"])
    assert worker.request({"do": "grow", "mib": 50, "seconds": 1}, _never)["did"] == "grow"
    worker.stop("idle")


def test_memory_that_only_maps_files_is_not_held(tmp_path: Path) -> None:
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
        assert 1 << 20 < memory.held(process.pid) < 64 << 20
        process.kill()
    assert memory.held(process.pid) == 0
