"""The control socket: commands send requests to the running daemon, which alone changes files.

A client sends one request line and reads replies until the result
(`lensd.daemon.control_messages`).
"""

from __future__ import annotations

import contextlib
import os
import socket
import socketserver
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any, TypeAlias, cast

from lensd.daemon.control_messages import (
    LONGEST_REQUEST,
    Message,
    Reply,
    Request,
    Result,
    decode_reply,
    decode_request,
)
from lensd.errors import EXIT_BUG, LensdError, LockedError, StorageError, UsageError
from lensd.logs.events import DaemonError
from lensd.store.json_lines import encode
from lensd.store.locks import holder
from lensd.watcher.folder import Log

NAME = "control.sock"
REQUEST_SECONDS = 10.0  # for each part of a request line
START_SECONDS = 5.0  # a daemon that has the lock may still be starting, or reloading

Send: TypeAlias = Callable[[Message], None]
Handle: TypeAlias = Callable[[Request, Send], int]


class Server:
    """Listens in the state folder between `start` and `stop`.

    `handle(request, send)` runs in a thread of its own for each request and returns the exit code.
    The client gets the text of its LensdError; any other exception is a bug, which is logged.
    """

    def __init__(self, folder: str, handle: Handle, log: Log) -> None:
        self._folder = folder
        self._handle = handle
        self._log = log
        self._server: _Listener | None = None

    def start(self) -> None:
        """Raises StorageError if the folder cannot have a socket."""
        path = os.path.join(self._folder, NAME)
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)  # a killed daemon left it: this process has the lock
            with _short_path(self._folder) as folder:
                server = _Listener(os.path.join(folder, NAME), _Conversation)
            os.chmod(path, 0o660)
        except OSError as error:
            raise StorageError(
                f"the control socket {path} cannot be made: {error.strerror or error}; free space "
                "on its disk, or check the rights of the state folder",
                path,
            ) from None
        self._server = server
        server.handle_control = self._handle
        server.log = self._log
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
    block_on_close = False  # a client of a long restore sees its connection close
    handle_control: Handle
    log: Log

    def handle_error(self, request: Any, client_address: Any) -> None:
        """The client closed the connection. What it requested is done nevertheless."""


class _Conversation(socketserver.StreamRequestHandler):
    """Writes the replies. The request runs in another thread, which no slow client can stop."""

    def handle(self) -> None:
        try:
            line = self._read_request()
        except UsageError as error:
            self.wfile.write(encode(Result(error.exit_code, str(error))))
            return
        if not line:
            return
        replies: SimpleQueue[Reply] = SimpleQueue()
        threading.Thread(
            target=lambda: replies.put(self._result_of(line, replies.put)),
            name="request",
            daemon=True,
        ).start()
        while True:
            reply = replies.get()
            self.wfile.write(encode(reply))
            if isinstance(reply, Result):
                return

    def _read_request(self) -> bytes:
        """The request line; a longer one is read no further. Raises UsageError."""
        self.connection.settimeout(REQUEST_SECONDS)
        try:
            return self.rfile.readline(LONGEST_REQUEST + 1)
        except TimeoutError:
            raise UsageError(
                f"no whole request line came within {REQUEST_SECONDS:g} s; end it with a newline"
            ) from None
        finally:
            self.connection.settimeout(None)

    def _result_of(self, line: bytes, send: Send) -> Result:
        server = cast("_Listener", self.server)
        request: Request | None = None
        try:
            request = decode_request(line)
            return Result(server.handle_control(request, send))
        except LensdError as error:
            return Result(error.exit_code, str(error))
        except Exception as bug:  # noqa: BLE001  the client must learn of it, and the log too
            return _report_bug(request, bug, server.log)


def _report_bug(request: Request | None, bug: Exception, log: Log) -> Result:
    command = "a request" if request is None else f"`lensd {request.verb}`"
    message = (
        f"a bug in lensd ended {command} ({type(bug).__name__}: {bug}). No file is half-written: "
        "each is as it was, or the command had finished with it. Please report the bug with the "
        "traceback"
    )
    log(
        DaemonError(
            request=None if request is None else request.verb,
            message=message,
            exception="".join(traceback.format_exception(bug)),
        )
    )
    where = "from the daemon's log (`journalctl -u lensd`, or the file log.path)"
    return Result(EXIT_BUG, f"{message} {where}")


def send_request(
    folder: str, request: Request, receive: Send, patience: float = START_SECONDS
) -> int:
    """Let the daemon of a state folder handle a request; returns the exit code.

    `patience`: for how many seconds a daemon may take no connection.

    `receive` gets each message for the person, the error of the result included. Raises LensdError
    when the daemon ends before the result, LockedError when the process that has the lock takes no
    requests (`lensd once`, or another command).
    """
    with _connect(folder, patience) as channel:
        with contextlib.suppress(ConnectionError):  # the daemon may refuse it before its end
            channel.sendall(encode(request))
        for reply in _read_replies(channel):
            if isinstance(reply, Result):
                if reply.error is not None:
                    receive(Message(f"error: {reply.error}"))
                return reply.code
            receive(reply)
    raise LensdError(
        f"the daemon ended before it had answered `lensd {request.verb}`. `lensd status` shows "
        "the state of the files; run the command again when the daemon is back"
    )


def _read_replies(channel: socket.socket) -> Iterator[Reply]:
    with channel.makefile("rb") as lines, contextlib.suppress(ConnectionError):
        for line in lines:
            if line.endswith(b"\n"):  # else the daemon ended within it
                yield decode_reply(line)


@contextmanager
def _connect(folder: str, patience: float) -> Iterator[socket.socket]:
    deadline = time.monotonic() + patience
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as channel:
        while True:
            try:
                with _short_path(folder) as short:
                    channel.connect(os.path.join(short, NAME))
            except PermissionError:
                raise LensdError(
                    f"user {os.geteuid()} may not connect to the daemon: run the command as the "
                    f"daemon's user, or as a member of the group of {os.path.join(folder, NAME)}"
                ) from None
            except OSError:
                if time.monotonic() > deadline:
                    pid = holder(folder) or "unknown"
                    raise LockedError(
                        f"another lensd (process {pid}) uses the state folder {folder} and takes "
                        "no requests: `lensd once` or another command runs, or the daemon hangs. "
                        f"Wait until it ends, or stop it with `kill {pid}`"
                    ) from None
                time.sleep(0.1)
            else:
                break
        yield channel


@contextmanager
def _short_path(folder: str) -> Iterator[str]:
    """A path of the folder that fits into the 107 bytes of a socket address."""
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)
