"""Serves the page until SIGTERM or ^C."""

from __future__ import annotations

import errno
import os
import re
import signal
import socket
import stat
from collections.abc import Callable, Collection

import uvicorn

from lensd.config.addresses import is_loopback
from lensd.config.model import Config
from lensd.daemon.systemd_notify import notify
from lensd.errors import EXIT_OK, StorageError, UsageError
from lensd.web.app import make_app
from lensd.web.connections import TimedConnection

SHORTEST_TOKEN = 16  # characters
CONNECTIONS = 64  # at once; each open page needs one
_REMEDIES = {
    errno.EADDRINUSE: "another program uses the port: choose another one with --listen",
    errno.EACCES: "only root may use ports below 1024: choose a higher one with --listen",
    errno.EADDRNOTAVAIL: "name an address of this machine with --listen, such as `ip addr` shows",
}
_ADDRESS = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([^:\[\]]+)):(\d{1,5})")


def serve(
    config: Config,
    listen: str,
    token_file: str | None,
    names: Collection[str],
    say: Callable[[str], None],
) -> int:
    """Returns the exit code. Raises UsageError, StorageError.

    `listen`: ADDRESS:PORT; `names`: of this host, beside its addresses.
    """
    host, port = parse_address(listen)
    for name in names:
        require_name(name)
    token = None if token_file is None else read_token(token_file)
    if token is None and not is_loopback(host):
        raise UsageError(
            f"--listen {listen}: everybody in the network could restore and compress files; add "
            "--token-file with a file that holds a token, or listen on 127.0.0.1"
        )
    with _bind(host, port) as listener:
        shown = f"[{host}]" if ":" in host else host

        def ready() -> None:
            say(f"the page is at http://{shown}:{listener.getsockname()[1]}/")
            notify("READY=1")

        app = make_app(config, token, [host, *names], ready)
        settings = uvicorn.Config(
            app,
            http=TimedConnection,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws="none",
            lifespan="on",
            limit_concurrency=CONNECTIONS,
            timeout_graceful_shutdown=1,  # pages that follow the events never end by themselves
        )
        for number in (signal.SIGTERM, signal.SIGINT):  # the server raises them again at its end
            signal.signal(number, signal.SIG_IGN)
        server = uvicorn.Server(settings)
        server.run(sockets=[listener])
    return EXIT_OK


def parse_address(listen: str) -> tuple[str, int]:
    """(host, port) of `127.0.0.1:8787`, `[::1]:8787` or `localhost:8787`. Raises UsageError."""
    match = _ADDRESS.fullmatch(listen)
    if match is None or int(match[3]) > 65535:
        raise UsageError(f"--listen {listen!r} is no ADDRESS:PORT; an example: 127.0.0.1:8787")
    return match[1] or match[2], int(match[3])


def require_name(name: str) -> None:
    """Raises UsageError for a `--name` that no request can have, e.g. one with a port."""
    if not re.fullmatch(r"[\w.-]+", name):
        raise UsageError(
            f"--name {name!r} is no name of a machine; write it without http:// and without the "
            "port, e.g. nas.local"
        )


def read_token(path: str) -> str:
    """The token of a file. Raises UsageError for one that other users may read, or a short one."""
    try:
        with open(path, encoding="utf-8") as file:
            mode = os.fstat(file.fileno()).st_mode
            token = file.read(4096).strip()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8"
        raise UsageError(
            f"--token-file {path} cannot be read: {why}; `openssl rand -hex 24 > {path}` makes one"
        ) from None
    if mode & (stat.S_IROTH | stat.S_IWOTH | stat.S_IWGRP):
        raise UsageError(
            f"other users may read or write the token in {path}; run `chmod 600` on it"
        )
    if len(token) < SHORTEST_TOKEN:
        raise UsageError(
            f"the token in {path} has {len(token)} characters, and {SHORTEST_TOKEN} are needed; "
            f"`openssl rand -hex 24 > {path}` makes one"
        )
    if len(token.splitlines()) > 1:
        raise UsageError(
            f"the token in {path} has several lines, which cannot be entered in a browser; "
            f"`openssl rand -hex 24 > {path}` makes another one"
        )
    return token


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(CONNECTIONS)  # before `ready`, so that no browser comes too early
    except OSError as error:
        listener.close()
        remedy = _REMEDIES.get(error.errno or 0, "choose another address with --listen")
        raise StorageError(
            f"cannot listen on {host}, port {port}: {error.strerror or error}; {remedy}"
        ) from None
    return listener
