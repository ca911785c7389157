"""The connection to a Dask cluster: kept up, and each request submitted until it has an end."""

from __future__ import annotations

import asyncio
import os
import uuid
from concurrent.futures import CancelledError
from typing import Any

from distributed import Client, Security
from distributed.scheduler import KilledWorker
from msgspec import structs

from lensd import __version__
from lensd.errors import FileError, Reason
from lensd.store.fs import open_original
from lensd.store.hashing import read_up_to
from lensd.store.json_lines import decode, encode
from lensd.store.tensors import Output
from lensd.worker.cluster import task
from lensd.worker.cluster.messages import (
    Answered,
    Available,
    Checked,
    ClusterEnd,
    ClusterSettings,
    Happened,
    Lost,
    Tls,
    Unavailable,
    Unfit,
    WorkerFacts,
)
from lensd.worker.protocol import Send
from lensd.worker.request import AnyRequest, CompressRequest, CompressResult, Refused

CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 5.0  # of a scheduler after that: Dask itself waits without end
NO_SCHEDULER = (
    "does not answer as a scheduler of Dask; check that its port is not that of the dashboard, or "
    "restart the scheduler"
)
LOOK_SECONDS = 2.0
UNFIT_SECONDS = 60.0  # until a worker that cannot do jobs is tried again
REMEMBERED_JOBS = 1000


class Away(Exception):
    """There is no cluster, or none of its workers can do jobs."""


class Connection:
    """For one event loop. `send` sends a message to the daemon."""

    def __init__(self, settings: ClusterSettings, send: Send) -> None:
        self._settings = settings
        self._send = send
        self._client: Any = None
        self._connecting = asyncio.Lock()  # requests that come together share a client
        self._unfit: dict[str, tuple[float, str]] = {}  # by address: until when, and why
        self._tried: dict[str, set[str]] = {}  # the workers that have answered, by job

    async def keep(self) -> None:
        """Connect whenever the connection is lost, and report how many threads there are."""
        while True:
            try:
                now = Available(threads=sum((await self._workers()).values()))
            except Away as away:
                now = Available(threads=0, message=str(away))
            self._send(now)
            await asyncio.sleep(LOOK_SECONDS)

    async def answer(self, request: AnyRequest) -> ClusterEnd:
        """The end of a request, whose output is in its temporary then.

        A request about the same job goes to another worker.
        """
        try:
            data = None
            if self._settings.paths == "staged":
                data = await asyncio.to_thread(_read, request)
            return await self._submit_until_answered(request, data)
        except FileError as error:
            return Refused.of(error)
        except Away as away:
            return Unavailable(message=str(away))
        except KilledWorker:
            message = "several workers of the cluster ended while they had the file"
            return Lost(reason=Reason.WORKER_CRASHED, message=message)

    async def check(self) -> Checked:
        """What the workers are."""
        try:
            workers = await self._workers()
            found = await self._client.run(task.facts, *self._common(), on_error="return")
        except (Away, OSError) as error:
            return Checked(problem=str(error))
        return Checked(workers={a: _facts(found.get(a)) for a in workers})

    async def _submit_until_answered(
        self, request: AnyRequest, data: memoryview | None
    ) -> ClusterEnd:
        """Raises Away, KilledWorker, FileError."""
        while True:
            found = await self._submit(request, data)
            end = None if found is None else await self._accept(request, *found)
            if end is not None:
                return end

    async def _accept(self, request: AnyRequest, line: bytes, output: bytes) -> ClusterEnd | None:
        """Write the output. None where the worker was unfit."""
        answered: Answered = decode(line, Answered)
        end, host = answered.end, answered.host
        if answered.events:
            self._send(Happened(events=answered.events))
        self._note_tried(request, host)
        if isinstance(end, CompressResult) and isinstance(request, CompressRequest):
            await asyncio.to_thread(_write, request, output)
            return structs.replace(end, host=host)
        if isinstance(end, Unfit):
            until = asyncio.get_running_loop().time() + UNFIT_SECONDS
            self._unfit[host] = until, f"the worker {host} of the cluster: {end.message}"
            return None
        if isinstance(end, Lost):
            return structs.replace(end, message=f"{end.message}, on {host} of the cluster")
        return end

    def _note_tried(self, request: AnyRequest, host: str) -> None:
        """Whether the answer was right is not known here: the daemon may come back with the job."""
        self._tried.setdefault(request.job_id or "", set()).add(host)
        while len(self._tried) > REMEMBERED_JOBS:
            del self._tried[next(iter(self._tried))]

    async def _submit(
        self, request: AnyRequest, data: memoryview | None
    ) -> tuple[bytes, bytes] | None:
        """What the task returned, or None if its worker was lost.

        Raises Away, KilledWorker.
        """
        workers = list(await self._workers())
        untried = [w for w in workers if w not in self._tried.get(request.job_id or "", ())]
        client, where = self._client, untried or workers
        try:
            sent = None
            if data is not None:
                sent = await client.scatter(data, workers=where, hash=False)
            future = client.submit(
                task.answer,
                encode(request),
                sent,
                *self._common(),
                workers=where,
                allow_other_workers=True,  # if these are lost
                fifo_timeout="0 ms",
                key=f"lensd-{uuid.uuid4().hex}",
            )
            result: tuple[bytes, bytes] = await future
        except CancelledError as error:  # of the bytes or the output, with their worker
            if client.status != "running":
                raise Away(f"the scheduler {self._settings.address} went away") from error
        except OSError as error:
            raise Away(f"the scheduler {self._settings.address} went away: {error}") from error
        except KilledWorker:
            raise
        except Exception as error:
            raise Away(
                f"the cluster {self._settings.address} cannot run lensd ({_first_line(error)}); "
                f"install lensd {__version__} on its scheduler and on all of its workers"
            ) from error
        else:
            return result
        return None

    def _common(self) -> tuple[bytes, task.Versions]:
        return encode(self._settings.limits), task.versions()

    async def _workers(self) -> dict[str, int]:
        """The threads of each worker that can do jobs, by address. Raises Away if there is none."""
        client = await self._connect()
        try:
            workers: dict[str, int] = await client.nthreads()
        except (OSError, CancelledError) as error:
            raise Away(f"the scheduler {self._settings.address} does not answer") from error
        now = asyncio.get_running_loop().time()
        unfit = {a: why for a, (until, why) in self._unfit.items() if a in workers and until > now}
        if workers.keys() <= unfit.keys():
            none = f"the cluster {self._settings.address} has no workers"
            raise Away("; ".join(unfit.values()) or none)
        return {address: n for address, n in workers.items() if address not in unfit}

    async def _connect(self) -> Any:
        """A client that is connected. Raises Away."""
        async with self._connecting:
            return await self._find_client()

    async def _find_client(self) -> Any:
        if self._client is not None and self._client.status == "running":
            return self._client
        if self._client is not None and self._client.status == "connecting":
            raise Away(f"the scheduler {self._settings.address} went away")
        if self._client is not None:
            await self._client.close(timeout=CONNECT_SECONDS)
        self._client = None
        address = self._settings.address
        make_client: Any = Client  # it has no types
        try:
            client = make_client(
                address,
                security=security(self._settings.tls),
                asynchronous=True,
                timeout=CONNECT_SECONDS,
                set_as_default=False,
            )
            done, _ = await asyncio.wait(
                [connecting := asyncio.ensure_future(client)],
                timeout=CONNECT_SECONDS + ANSWER_SECONDS,
            )
            if not done:
                connecting.cancel()
                raise Away(f"{address} {NO_SCHEDULER}")
            self._client = connecting.result()
        except (OSError, ValueError) as error:
            raise Away(f"the scheduler {address} cannot be reached: {error}") from error
        return self._client


def security(tls: Tls | None) -> Any:
    """What Dask needs for a connection with or without TLS."""
    make_security: Any = Security  # it has no types
    if tls is None:
        return make_security()
    return make_security(
        require_encryption=True,
        tls_ca_file=tls.ca,
        tls_client_cert=tls.cert,
        tls_client_key=tls.key,
    )


def _facts(found: bytes | Exception | None) -> WorkerFacts:
    if isinstance(found, bytes):
        facts: WorkerFacts = decode(found, WorkerFacts)
        return facts
    return WorkerFacts(problem=f"lensd cannot run there ({_first_line(found)})")


def _first_line(error: object) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0]


def _read(request: AnyRequest) -> memoryview:
    """The bytes of the file, without a second copy of them. Raises FileError."""
    fd = open_original(request.path, request.identity)
    try:
        return memoryview(read_up_to(fd, os.fstat(fd).st_size, 0))
    finally:
        os.close(fd)


def _write(request: CompressRequest, output: bytes) -> None:
    """Fill the temporary that the daemon made. Raises FileError."""
    with Output(request.temporary, request.temporary_inode, 0) as temporary:
        temporary.write_file(output)
        temporary.sync()
