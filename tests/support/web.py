"""`lensd web` as a child process, and requests to it."""

from __future__ import annotations

import http.client
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.support.limits import PATIENCE


class Answer(NamedTuple):
    """What the server answers; names of headers are in lower case."""

    status: int
    headers: dict[str, str]
    text: str


class Web:
    """A running `lensd web` on a free port of the loopback interface."""

    def __init__(self, process: subprocess.Popen[str], address: str) -> None:
        self.process = process
        self.address = address  # http://127.0.0.1:PORT
        self.host = address.removeprefix("http://")
        self.cookie = ""

    def get(self, path: str, **headers: str) -> Answer:
        """The answer to a GET with these headers, `_` for `-`."""
        return self.request("GET", path, headers)

    def post(self, path: str, body: str = "", **headers: str) -> Answer:
        """The answer to a POST as a page of the server sends it, except for these headers."""
        own = {"origin": self.address, "cookie": self.cookie}
        return self.request("POST", path, own | headers, body)

    def request(self, method: str, path: str, headers: Mapping[str, str], body: str = "") -> Answer:
        connection = http.client.HTTPConnection(self.host, timeout=PATIENCE)
        try:
            connection.putrequest(method, path, skip_host="host" in headers)
            for name, value in headers.items():
                if value:
                    connection.putheader(name.replace("_", "-"), value)
            if method == "POST" and "content_length" not in headers:
                connection.putheader("content-length", str(len(body)))
            connection.endheaders(body.encode())
            found = connection.getresponse()
            text = found.read().decode()
            return Answer(found.status, {k.lower(): v for k, v in found.getheaders()}, text)
        finally:
            connection.close()

    def open_session(self) -> None:
        """Take the cookie that the first page gives."""
        self.cookie = self.get("/").headers["set-cookie"].partition(";")[0]


@contextmanager
def serving(config: Path, *arguments: str) -> Iterator[Web]:
    """`lensd web` until the end of the block, which ends it with SIGTERM."""
    command = [sys.executable, "-m", "lensd", "web", "-c", str(config), "--listen", "127.0.0.1:0"]
    process = subprocess.Popen([*command, *arguments], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        said = process.stderr.readline()
        assert "the page is at http://" in said, said + process.stderr.read()
        yield Web(process, said.split()[-1].rstrip("/"))
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0, process.stderr.read()
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
