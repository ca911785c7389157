"""The objects of a collection as tasks of a Dask cluster, whose workers reach the two stores.

Only rows come back, so that this machine moves no file. A worker that ends while it has a task is
Dask's to replace: another worker gets the task, three times at most.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, wait
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

from distributed import Client, get_worker
from distributed.scheduler import KilledWorker

from lensd.collection import task as tasks
from lensd.collection.engines import Engines
from lensd.collection.place import describe, open_place
from lensd.collection.rows import Row
from lensd.collection.task import Job, Task
from lensd.errors import LensdError, StorageError
from lensd.store.deadline import begin
from lensd.store.fs import new_token
from lensd.worker.cluster.connection import (
    ANSWER_SECONDS,
    CONNECT_SECONDS,
    NO_SCHEDULER,
    security,
)
from lensd.worker.cluster.messages import Tls
from lensd.worker.cluster.task import (
    Versions,
    WorkerUnfit,
    require_versions,
    versions,
)

LOOK_SECONDS = 5.0  # between two looks for lost workers


class Cluster(NamedTuple):
    """`threads`: of all workers; `dashboard`: the address of a page."""

    threads: int
    dashboard: str
    submit: Callable[[Task], Future[Row]]


@contextmanager
def connect(
    address: str, tls: Tls | None, job: Job, say: Callable[[str], None]
) -> Iterator[Cluster]:
    """`say` gets a message when the last worker has gone, and when there is one again.

    Raises StorageError for a cluster that is away, or whose workers would give other bytes.
    """
    for logger in ("distributed", "distributed.client"):  # tracebacks, beside lensd's messages
        logging.getLogger(logger).setLevel(logging.CRITICAL)
    with _make_client(address, tls) as client, _reporting_loss(client, address, say):
        _require_fit(client, address, job)
        executor = client.get_executor(pure=False)

        def submit(task: Task) -> Future[Row]:
            end: Future[Row] = Future()
            pass_on = functools.partial(_pass_on, task, address, end)
            executor.submit(_work, task, versions()).add_done_callback(pass_on)
            return end

        yield Cluster(sum(client.nthreads().values()), client.dashboard_link, submit)


def _make_client(address: str, tls: Tls | None) -> Any:
    """Raises StorageError. Dask waits without end where something else answers than a scheduler."""
    make_client: Any = Client  # it has no types
    found = begin(lambda: make_client(address, security=security(tls), timeout=CONNECT_SECONDS))
    wait([found], CONNECT_SECONDS + ANSWER_SECONDS)
    if not found.done():
        raise StorageError(f"{address} {NO_SCHEDULER}")
    try:
        return found.result()
    except (OSError, ValueError) as error:
        raise StorageError(
            f"the scheduler {address} cannot be reached: {error}; check address, certificates and "
            "network"
        ) from None


@contextmanager
def _reporting_loss(client: Any, address: str, say: Callable[[str], None]) -> Iterator[None]:
    """Dask lets tasks wait for workers without end, and without a word."""
    ending = threading.Event()

    def look() -> None:
        was_lost = False
        while not ending.wait(LOOK_SECONDS):
            has_workers = _has_workers(client)
            is_lost = not has_workers
            if ending.is_set() or has_workers is None or is_lost == was_lost:
                continue
            was_lost = is_lost
            if is_lost:
                say(
                    f"the cluster {address} has no workers any more; the run waits for one. After "
                    "^C the same command continues"
                )
            else:
                say(f"the cluster {address} has a worker again")

    threading.Thread(target=look, daemon=True).start()
    try:
        yield
    finally:
        ending.set()


def _has_workers(client: Any) -> bool | None:
    """None while the scheduler is away, which the tasks report."""
    try:
        return bool(client.nthreads())
    except Exception:  # noqa: BLE001  Dask has many kinds
        return None


def _require_fit(client: Any, address: str, job: Job) -> None:
    """Raises StorageError unless each worker computes as this machine does, and has the packages
    for both stores.
    """
    found = client.run(_problem, versions(), job.source, job.destination, on_error="return")
    if not found:
        raise StorageError(f"the cluster {address} has no workers")
    for worker, problem in found.items():
        if problem is not None:
            text = problem if isinstance(problem, str) else describe(problem)
            raise StorageError(f"the worker {worker} of the cluster: {text}")


def _problem(expected: Versions, *places: str) -> str | None:
    """Why the worker of Dask that calls it cannot do tasks."""
    try:
        require_versions("", expected)
        for place in places:
            open_place(place)
    except (WorkerUnfit, LensdError) as error:
        return str(error.args[-1])
    return None


def _pass_on(task: Task, address: str, end: Future[Row], done: Future[Row]) -> None:
    try:
        end.set_result(done.result())
    except KilledWorker as error:
        end.set_result(tasks.row_of_crash(task, f"it ended its worker of Dask: {error}"))
    except WorkerUnfit as unfit:
        worker, why = unfit.args
        end.set_exception(StorageError(f"the worker {worker} of the cluster: {why}"))
    except CancelledError:
        gone = f"the scheduler {address} went away; run the same command again"
        end.set_exception(StorageError(gone))
    except Exception as error:  # noqa: BLE001  for the thread that waits
        end.set_exception(error)


def _work(task: Task, expected: Versions) -> Row:
    """On a worker. Two workers may have the same object, if Dask takes one of them for lost."""
    require_versions(get_worker().address, expected)
    return tasks.run(replace(task, token=new_token()), _engines())


@functools.cache
def _engines() -> Engines:
    """The worker processes of this worker of Dask. They end with it."""
    worker = get_worker()
    return Engines(worker.state.nthreads, worker.local_directory)
