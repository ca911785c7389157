"""A home server with recipients, and the real servers that receive its messages."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterator
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.home_server import HomeServer
from tests.support.limits import PATIENCE

PASSWORD = "s3cr3t-p4ss"  # noqa: S105 - of a server that lives for one test
TOKEN = "t0k3n-in-a-path"  # noqa: S105 - the same


class Webhook:
    """A real HTTP server for apprise's json://; `code` is the status of its answers."""

    def __init__(self) -> None:
        self.code = 200
        self.received: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                owner.received.put(json.loads(body))
                self.send_response(owner.code)
                if owner.code in (301, 302, 303):
                    self.send_header("Location", "/elsewhere")
                self.end_headers()

            def do_GET(self) -> None:
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Print nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        """With a password and a token, which nobody may see."""
        return f"json://user:{PASSWORD}@127.0.0.1:{self.port}/{TOKEN}"

    def next(self, seconds: float = PATIENCE) -> dict[str, Any]:
        """The next message."""
        return self.received.get(timeout=seconds)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Mailbox:
    """A real SMTP server for apprise's mailto://."""

    def __init__(self) -> None:
        from aiosmtpd.controller import Controller
        from aiosmtpd.handlers import Message

        class OnAnyPort(Controller):
            def _trigger_server(self) -> None:
                server: Any = self.server
                self.port = server.sockets[0].getsockname()[1]
                super()._trigger_server()  # type: ignore[no-untyped-call]

        received: queue.SimpleQueue[EmailMessage] = queue.SimpleQueue()

        class Handler(Message):
            def handle_message(self, message: Any) -> None:
                received.put(message)

        self.received = received
        self._controller = OnAnyPort(Handler(EmailMessage), hostname="127.0.0.1", port=0)
        self._controller.start()
        self.port = self._controller.port

    def close(self) -> None:
        self._controller.stop()


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    hook = Webhook()
    yield hook
    hook.close()


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    box = Mailbox()
    yield box
    box.close()


@pytest.fixture
def home(tmp_path: Path) -> HomeServer:
    return HomeServer(tmp_path)


def notify(home: HomeServer, **section: Any) -> None:
    """Write the section `notify` of the configuration."""
    document = yaml.safe_load(home.config.read_text())
    document["notify"] = {"interval_seconds": 0.5, **section}
    home.config.write_text(json.dumps(document))
    home.config.chmod(0o640)
