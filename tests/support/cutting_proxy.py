"""A TCP proxy on this machine that cuts connections in the middle of an answer."""

from __future__ import annotations

import selectors
import socket
import threading
from typing import Self

CHUNK = 4096


class CuttingProxy:
    """Forwards to a port of 127.0.0.1, until the end of the block.

    The first `cuts` connections on which the server sends more than `after` bytes are reset there.
    """

    def __init__(self, target: int, *, cuts: int, after: int) -> None:
        self._target, self._after = target, after
        self._left = cuts
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]

    @property
    def left(self) -> int:
        """Cuts that are still to come."""
        return self._left

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._target)) as server:
            try:
                self._forward(client, server)
            except OSError:
                return

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        sent = 0
        with selectors.DefaultSelector() as selector:
            selector.register(client, selectors.EVENT_READ, server)
            selector.register(server, selectors.EVENT_READ, client)
            while True:
                for key, _ in selector.select():
                    source: socket.socket = key.fileobj  # type: ignore[assignment]
                    data = source.recv(CHUNK)
                    if not data:
                        return
                    sent += len(data) if source is server else 0
                    if sent > self._after and self._takes_cut():
                        return
                    key.data.sendall(data)

    def _takes_cut(self) -> bool:
        with self._lock:
            self._left -= 1
            return self._left >= 0
