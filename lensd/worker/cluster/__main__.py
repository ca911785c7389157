"""The client process: `lensd.worker.cluster SETTINGS [--check]`, with the settings as JSON.

It alone speaks to the cluster. The daemon writes requests to its standard input, as to a worker
process, and many of them are under way at the same time. It ends when that closes.
"""

from __future__ import annotations

import asyncio
import os
import sys
import traceback

from msgspec import structs

from lensd.store.json_lines import decode, encode
from lensd.worker.cluster.connection import Connection
from lensd.worker.cluster.messages import Cancel, ClusterEnd, ClusterSettings, ToClient
from lensd.worker.cluster.task import versions
from lensd.worker.protocol import Send, begin
from lensd.worker.request import AnyRequest, Bug, Hello


class Requests:
    """The requests that are under way, each as a task of the event loop."""

    def __init__(self, connection: Connection, send: Send) -> None:
        self._connection = connection
        self._send = send
        self._tasks: dict[str, asyncio.Task[None]] = {}  # by number

    def receive(self, line: bytes) -> None:
        """Begin a request, or give one up."""
        message = decode(line, ToClient)
        number = message.number
        if isinstance(message, Cancel):
            if number in self._tasks:
                self._tasks[number].cancel()
            return
        task = self._tasks[number] = asyncio.create_task(self._answer(message.request, number))
        task.add_done_callback(lambda _: self._tasks.pop(number))

    async def _answer(self, request: AnyRequest, number: str) -> None:
        try:
            end: ClusterEnd = await self._connection.answer(request)
        except Exception:  # noqa: BLE001  a bug must reach the daemon's log, not end the process
            end = Bug(traceback=traceback.format_exc(limit=-8))
        self._send(structs.replace(end, job_id=number))


async def serve(settings: ClusterSettings) -> None:
    """Answer requests until standard input closes. Never returns."""
    loop = asyncio.get_running_loop()
    _, torch = versions()

    def receive(line: bytes) -> None:
        loop.call_soon_threadsafe(lambda: requests.receive(line))

    send = begin(Hello(pid=os.getpid(), device="cluster", torch=torch), receive)
    connection = Connection(settings, send)
    requests = Requests(connection, send)
    await connection.keep()


async def check(settings: ClusterSettings) -> None:
    """Print what the workers of the cluster are, as one JSON line."""
    found = await Connection(settings, lambda _: None).check()
    sys.stdout.buffer.write(encode(found))
    sys.stdout.flush()
    os._exit(0)  # without waiting for the connections of Dask


def main() -> None:
    settings = decode(sys.argv[1].encode(), ClusterSettings)
    asyncio.run(check(settings) if "--check" in sys.argv else serve(settings))


if __name__ == "__main__":
    main()
