"""The task of a Dask worker: a worker process of its machine answers a request about bytes.

The worker processes outlive the tasks. Each serves one thread of the Dask worker at a time.
"""

from __future__ import annotations

import importlib.metadata
import os
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

from distributed import Worker as DaskWorker
from distributed import get_worker
from msgspec import structs

from lensd import __version__
from lensd.errors import StorageError
from lensd.logs.events import Event, WorkerCrashed, WorkerStarted, WorkerStopped
from lensd.lora.parameters import Parameters
from lensd.store.json_lines import decode, encode
from lensd.worker import isolated, memory
from lensd.worker.cluster.messages import (
    Answered,
    ClusterEnd,
    EngineLimits,
    Lost,
    Unfit,
    WorkerEvent,
    WorkerFacts,
)
from lensd.worker.request import AnalyzeRequest, AnyRequest, Bug
from lensd.worker.staged import request_bytes
from lensd.worker.supervisor import Worker
from lensd.worker.workers import WorkerLost

IDLE_LOOK_SECONDS = 5.0
Versions = tuple[str, str]  # of lensd and of torch


class WorkerUnfit(Exception):
    """A Dask worker cannot do jobs. Its arguments are its address and the reason."""


def versions() -> Versions:
    """What decides the bytes of an output. The build of torch (+cpu, +cu126) is left out."""
    return __version__, importlib.metadata.version("torch").partition("+")[0]


def answer(
    request: bytes, data: memoryview | None, limits: bytes, expected: Versions
) -> tuple[bytes, bytes]:
    """Answered, and the output. Without `data` the path is read. Messages are JSON lines.

    Raises nothing, since Dask does not pass on every exception.
    """
    dask_worker = get_worker()
    events: list[WorkerEvent] = []
    end: ClusterEnd | Unfit
    output = b""
    try:
        require_versions(dask_worker.address, expected)
        wanted: AnyRequest = decode(request, AnyRequest)
        wanted = structs.replace(wanted, processes=dask_worker.state.nthreads)
        if data is None:
            _require_path(dask_worker.address, wanted.path)
        with _borrow(decode(limits, EngineLimits), dask_worker) as engine:
            end, output = _end_of(engine.worker, wanted, data, dask_worker.local_directory)
            events += engine.events
    except WorkerUnfit as unfit:
        end = Unfit(message=str(unfit.args[1]))
    except Exception:  # noqa: BLE001  a bug must reach the daemon's log
        end = Bug(traceback=traceback.format_exc(limit=-8))
    address = dask_worker.address
    happened = [structs.replace(event, host=address) for event in events]
    return encode(Answered(end=end, host=address, events=happened)), output


def facts(limits: bytes, expected: Versions, dask_worker: DaskWorker) -> bytes:
    """What this machine computes with: WorkerFacts as a JSON line. Starts the worker process.

    Dask gives `dask_worker` to what runs by `Client.run`.
    """
    lensd, torch = versions()
    found = WorkerFacts(lensd=lensd, torch=torch)
    try:
        require_versions("", expected)
        with _borrow(decode(limits, EngineLimits), dask_worker) as engine:
            engine.worker.stop("restart")  # it says what it is when it starts
            engine.worker.request(_NOTHING, lambda: False)
            for event in engine.events:
                if isinstance(event, WorkerStarted):
                    kernels = str(event.kernels)
                    found = WorkerFacts(lensd=lensd, torch=event.torch, kernels=kernels)
    except (WorkerUnfit, WorkerLost) as error:
        found = structs.replace(found, problem=str(error.args[-1]))
    return encode(found)


_NOTHING = AnalyzeRequest(path="/dev/null", name="", parameters=Parameters(), device="cpu")


def _end_of(
    worker: Worker, request: AnyRequest, data: memoryview | None, folder: str
) -> tuple[ClusterEnd | Unfit, bytes]:
    try:
        return request_bytes(worker, request, data, folder)
    except WorkerLost as lost:
        return Lost(reason=lost.reason, message=str(lost)), b""
    except StorageError as error:
        return Unfit(message=str(error)), b""


def require_versions(address: str, expected: Versions) -> None:
    """Raises WorkerUnfit."""
    for name, here, there in zip(("lensd", "torch"), versions(), expected, strict=True):
        if here != there:
            raise WorkerUnfit(
                address,
                f"it has {name} {here}, and the daemon has {name} {there}: outputs could have "
                f"other bytes; install {name} {there} there",
            )


def _require_path(address: str, path: str) -> None:
    if not os.path.exists(path):
        raise WorkerUnfit(
            address,
            f"there is no {path} on that machine; mount the folder there at the same path, or use "
            "`cluster_paths: staged`",
        )


@dataclass(slots=True)
class _Engine:
    """A worker process, and what happened to it since the last task."""

    worker: Worker
    events: list[WorkerEvent]

    @classmethod
    def new(cls) -> _Engine:
        command = isolated.command("lensd.engine")
        events: list[WorkerEvent] = []

        def note(event: Event) -> None:
            if isinstance(event, WorkerStarted | WorkerStopped | WorkerCrashed):
                events.append(event)

        return cls(Worker(command, note, timeout=0, idle_exit=0), events)


_idle: list[_Engine] = []  # the last one in is the first one out, so that the others can end
_lock = threading.Lock()


@contextmanager
def _borrow(limits: EngineLimits, dask_worker: DaskWorker) -> Iterator[_Engine]:
    threads = dask_worker.state.nthreads  # so many tasks at the same time
    with _lock:
        engine = _idle.pop() if _idle else _Engine.new()
    worker = engine.worker
    worker.timeout, worker.idle_exit = limits.timeout, limits.idle_exit
    worker.nice, worker.memory_limit = limits.nice, memory.limit(limits.memory_limit, threads)
    try:
        yield engine
    finally:
        engine.events.clear()
        _start_watching_idle()
        with _lock:
            _idle.append(engine)


@cache
def _start_watching_idle() -> None:
    threading.Thread(target=_end_idle_processes, daemon=True).start()


def _end_idle_processes() -> None:
    while True:
        threading.Event().wait(IDLE_LOOK_SECONDS)
        with _lock:
            for engine in _idle:
                if engine.worker.idle_ends_in() <= 0:
                    engine.worker.stop("idle")
