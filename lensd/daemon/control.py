"""The control socket: other commands ask the running daemon, which alone may change things.

A request is one line of JSON, `{"verb": VERB, ARGUMENTS...}`. The answer is any number of lines
`{"say": TEXT}` for the person who waits, and one `{"code": EXIT CODE, "error": TEXT or null}`.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

from lensd.errors import LensdError, LockedError

NAME = "control.sock"
START_SECONDS = 5.0  # a daemon that holds the lock may just be starting, or reloading
LONGEST_REQUEST = 16 << 20

Tell = Callable[[str], None]
Answer = Callable[[str, dict[str, Any], Tell], int]


class Server:
    """Listens in the state folder while entered. `answer(verb, arguments, tell)` runs in a thread
    of its own for each request and returns the exit code; its LensdError goes to who asked.
    """

    def __init__(self, folder: str, answer: Answer) -> None:
        self._folder = folder
        self._answer = answer
        self._server: _Listener | None = None

    def start(self) -> None:
        """Raises OSError where the folder takes no socket."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self._folder, NAME))  # a killed daemon's; the lock is ours
        with _short(self._folder) as folder:
            server = _Listener(os.path.join(folder, NAME), _Conversation)
        self._server = server
        server.answer = self._answer
        os.chmod(os.path.join(self._folder, NAME), 0o660)
        threading.Thread(target=server.serve_forever, name="control", daemon=True).start()

    def stop(self) -> None:
        if self._server is None:
            return
        self._server.shutdown()
        self._server.server_close()
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(self._folder, NAME))


class _Listener(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    block_on_close = False  # who waits for a long restore learns of the end by the closed socket
    answer: Answer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no fault of the daemon's."""


class _Conversation(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        request = json.loads(self.rfile.readline(LONGEST_REQUEST))
        verb = request.pop("verb")
        error = None
        try:
            code = cast("_Listener", self.server).answer(verb, request, self._say)
        except LensdError as problem:
            code, error = problem.exit_code, str(problem)
        self._send({"code": code, "error": error})

    def _say(self, text: str) -> None:
        with contextlib.suppress(OSError):  # it is done all the same when nobody listens
            self._send({"say": text})

    def _send(self, message: dict[str, Any]) -> None:
        self.wfile.write(_line(message))


def ask(folder: str, verb: str, arguments: dict[str, Any], tell: Tell) -> int:
    """Have the daemon of a state folder do it; returns the exit code.

    Raises LensdError when there is no answer, LockedError when whoever holds the lock does not
    listen (`lensd once`, or another command like this).
    """
    with _connected(folder) as channel, channel.makefile("rb") as answers:
        channel.sendall(_line({"verb": verb, **arguments}))
        for line in answers:
            message = json.loads(line)
            if "say" in message:
                tell(message["say"])
                continue
            if message["error"] is not None:
                tell(f"error: {message['error']}")
            return int(message["code"])
    raise LensdError(
        f"the daemon ended before it had answered to `lensd {verb}`; `lensd status` tells what is "
        "done, then try again"
    )


@contextmanager
def _connected(folder: str) -> Iterator[socket.socket]:
    deadline = time.monotonic() + START_SECONDS
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as channel:
        while True:
            try:
                with _short(folder) as short:
                    channel.connect(os.path.join(short, NAME))
            except PermissionError:
                raise LensdError(
                    f"user {os.geteuid()} may not talk to the daemon: run the command as its user, "
                    f"or as a member of the group of {os.path.join(folder, NAME)}"
                ) from None
            except OSError:
                if time.monotonic() > deadline:
                    raise LockedError(
                        f"another lensd works with the state folder {folder} and takes no "
                        "requests (`lensd once`, or one that hangs); wait for its end, or stop it"
                    ) from None
                time.sleep(0.1)
            else:
                break
        yield channel


@contextmanager
def _short(folder: str) -> Iterator[str]:
    """A path for the folder that fits the 107 bytes that an address may have."""
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


def _line(message: dict[str, Any]) -> bytes:
    return json.dumps(message, ensure_ascii=True).encode("ascii") + b"\n"
