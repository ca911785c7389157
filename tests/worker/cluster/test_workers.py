"""The daemon's side of a cluster, on a machine that can start no further process."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from lensd.errors import ClusterUnavailable, WorkerUnavailable
from lensd.logs.events import Event, WorkerStarted
from lensd.lora.parameters import Parameters
from lensd.worker.cluster.messages import ClusterSettings, EngineLimits
from lensd.worker.cluster.workers import ClusterWorkers
from lensd.worker.pool import WorkerPool
from lensd.worker.request import AnalyzeRequest
from lensd.worker.supervisor import Worker
from lensd.worker.workers import Ended, Task
from tests.support.home_server import wait_until
from tests.support.limits import PATIENCE

LIMITS = EngineLimits(timeout=600.0, idle_exit=60.0, nice=0, memory_limit=None)
NOWHERE = ClusterSettings(address="tcp://127.0.0.1:1", paths="staged", limits=LIMITS)
TASK = Task(
    AnalyzeRequest(path=__file__, name="a", parameters=Parameters(), device="cpu", job_id="job"),
    lambda: False,
)


@contextmanager
def one_free_descriptor() -> Iterator[None]:
    free = os.dup(0)
    os.close(free)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_without_a_client_process_no_cluster_is_available() -> None:
    """A task waits as without a worker process."""
    workers = ClusterWorkers(NOWHERE, lambda _: None, 60.0)
    with one_free_descriptor():
        with pytest.raises(WorkerUnavailable):
            workers.start(TASK)
        assert not workers.is_available()
    workers.stop("shutdown")


@pytest.mark.slow
def test_a_look_at_the_cluster_loses_no_end() -> None:
    """Jobs that wait for the cluster look at it while others run; the next wait returns the end."""
    workers = ClusterWorkers(NOWHERE, lambda _: None, 60.0)
    workers.start(TASK)
    wait_until(lambda: workers.is_available() or not workers._tasks, "a look has found the end")
    ended = workers.wait(0.0)
    workers.stop("shutdown")
    assert [(end.job_id, type(end.result)) for end in ended] == [("job", ClusterUnavailable)]


@pytest.mark.slow
def test_the_fallback_cannot_start_a_process_either() -> None:
    """That is the end of the one task, and not of the thread that waits."""
    events: list[Event] = []
    local = WorkerPool(
        lambda: Worker(("/nonexistent",), events.append, timeout=60.0, idle_exit=60.0), 1
    )
    workers = ClusterWorkers(NOWHERE, events.append, 60.0, local)
    workers.start(TASK)
    ended = _wait_for_ends(workers)
    workers.stop("shutdown")
    assert [(end.job_id, type(end.result)) for end in ended] == [("job", WorkerUnavailable)]


@pytest.mark.slow
def test_the_cluster_is_tried_again_after_its_client_process_was_lost() -> None:
    """Its task goes to this machine, and the next one to another client process."""
    events: list[Event] = []
    local = WorkerPool(
        lambda: Worker(("/nonexistent",), events.append, timeout=60.0, idle_exit=60.0), 1
    )
    workers = ClusterWorkers(NOWHERE, events.append, 60.0, local)
    before = set(psutil.Process().children())
    workers.start(TASK)
    [client] = set(psutil.Process().children()) - before
    client.kill()
    _wait_for_ends(workers)
    assert not any(isinstance(event, WorkerStarted) for event in events)
    workers.start(TASK)
    _wait_for_ends(workers)
    workers.stop("shutdown")
    started = [event for event in events if isinstance(event, WorkerStarted)]
    assert [event.host for event in started] == [NOWHERE.address]


def _wait_for_ends(workers: ClusterWorkers) -> list[Ended]:
    deadline = time.monotonic() + PATIENCE
    ended = workers.wait(1.0)
    while not ended and time.monotonic() < deadline:
        ended = workers.wait(1.0)
    return ended
