"""JSON lines over pipes, and the worker process's side of the conversation.

Daemon to worker: one request a line. Worker to daemon: `hello` once, `heartbeat` every second,
then for each request some `progress`, and one `result`, or one `refused` (the file's end) or `bug`
(a traceback).
Names that are not UTF-8 travel as JSON escapes of surrogates.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from lensd.errors import FileError

HEARTBEAT_SECONDS = 1.0
PROGRESS_SECONDS = 0.2  # at least, between two messages

Message = dict[str, Any]
# A stage's name, how many of its modules (or tensors) are done, and how many it has.
Progress = Callable[[str, int, int], None]
Handle = Callable[[Message, Progress], Message]


def encode(message: Message) -> bytes:
    """One line, ASCII only."""
    return json.dumps(message, ensure_ascii=True).encode("ascii") + b"\n"


def decode(line: bytes) -> Message:
    message = json.loads(line)
    if not isinstance(message, dict):
        raise TypeError("a message is an object")
    return message


def serve(handle: Handle, hello: Message) -> None:
    """Answer requests from standard input until it closes. Never returns.

    Standard output is turned into standard error for everything but the protocol, so that a
    library that prints cannot break it. Signals are the daemon's business: it closes the pipe.
    """
    out = os.dup(1)
    os.dup2(2, 1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    lock = threading.Lock()

    def say(kind: str, **fields: Any) -> None:
        with lock:
            os.write(out, encode({"type": kind, **fields}))

    requests: SimpleQueue[Message] = SimpleQueue()
    say("hello", pid=os.getpid(), **hello)
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()
    threading.Thread(target=_beat, args=(say,), daemon=True).start()
    while True:
        kind, fields = _answer(handle, requests.get(), _teller(say))
        say(kind, **fields)


def _listen(requests: SimpleQueue[Message]) -> None:
    """A closed pipe means that the daemon is gone or wants this process gone, now."""
    for line in sys.stdin.buffer:
        requests.put(decode(line))
    os._exit(0)


def _beat(say: Callable[..., None]) -> None:
    while True:
        try:
            say("heartbeat")
        except OSError:
            os._exit(0)
        threading.Event().wait(HEARTBEAT_SECONDS)


def _teller(say: Callable[..., None]) -> Progress:
    """Progress as messages, a few a second."""
    told = 0.0

    def tell(stage: str, done: int, of: int) -> None:
        nonlocal told
        now = time.monotonic()
        if now - told >= PROGRESS_SECONDS:
            told = now
            say("progress", stage=stage, done=done, of=of)

    return tell


def _answer(handle: Handle, request: Message, progress: Progress) -> tuple[str, Message]:
    try:
        return "result", handle(request, progress)
    except FileError as error:
        fields = {"event": error.event, "reason": error.reason, "message": str(error)}
        return "refused", fields | {"measures": error.measures, "disk": error.disk}
    except Exception:  # noqa: BLE001  a bug must reach the log of the daemon, not end the worker
        return "bug", {"message": traceback.format_exc(limit=-8)}
