"""The worker process's side of the pipes: it reads requests and writes answers.

Worker to daemon: `hello` once, `heartbeat` every second, then for each request some `progress` and
one result, or `refused` (the end of that file) or `bug` (a traceback).
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from queue import SimpleQueue

from lensd.errors import FileError
from lensd.store.json_lines import decode, encode
from lensd.worker.request import (
    Answer,
    AnyRequest,
    Bug,
    Heartbeat,
    Hello,
    Progress,
    Refused,
    Result,
)

HEARTBEAT_SECONDS = 1.0
PROGRESS_SECONDS = 0.2  # at least, between two messages

# A stage's name, how many of its modules (or tensors) are done, and how many it has.
ReportProgress = Callable[[str, int, int], None]
Handle = Callable[[AnyRequest, ReportProgress], Result]
Send = Callable[[Answer], None]


def serve(handle: Handle, device: str, torch_version: str, kernels: str) -> None:
    """Answer requests from standard input until it closes. Never returns."""
    lines: SimpleQueue[bytes] = SimpleQueue()
    hello = Hello(pid=os.getpid(), device=device, torch=torch_version, kernels=kernels)
    send = begin(hello, lines.put)
    threading.Thread(target=_send_heartbeats, args=(send,), daemon=True).start()
    while True:
        send(_answer(handle, lines.get(), _progress_sender(send)))


def begin(hello: Hello, receive: Callable[[bytes], None]) -> Send:
    """Say hello, and call `receive` with each line from standard input, in a thread of its own.

    Returns what sends an answer, from any thread; where the daemon has ended, it ends the process.
    Everything else that is written to standard output goes to standard error, so that a library
    that prints cannot break the protocol. Signals are ignored: the daemon closes the pipe, and then
    the process ends at once.
    """
    out = os.dup(1)
    os.dup2(2, 1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    lock = threading.Lock()

    def send(answer: Answer) -> None:
        try:
            with lock:
                os.write(out, encode(answer))
        except BrokenPipeError:
            os._exit(0)

    send(hello)
    threading.Thread(target=_read_lines, args=(receive,), daemon=True).start()
    return send


def _read_lines(receive: Callable[[bytes], None]) -> None:
    """A closed pipe means that the daemon has ended, or wants this process to end at once."""
    for line in sys.stdin.buffer:
        receive(line)
    os._exit(0)


def _send_heartbeats(send: Send) -> None:
    while True:
        send(Heartbeat())
        threading.Event().wait(HEARTBEAT_SECONDS)


def _progress_sender(send: Send) -> ReportProgress:
    """Sends a few messages a second, and drops the others."""
    last = 0.0

    def report(stage: str, done: int, of: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= PROGRESS_SECONDS:
            last = now
            send(Progress(stage=stage, done=done, of=of))

    return report


def _answer(handle: Handle, line: bytes, report: ReportProgress) -> Answer:
    try:
        return handle(decode(line, AnyRequest), report)
    except FileError as error:
        return Refused.of(error)
    except Exception:  # noqa: BLE001  a bug must reach the daemon's log, not end the worker
        return Bug(traceback=traceback.format_exc(limit=-8))
