"""Real Syncthing instances on this machine, connected to each other only."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Self

from tests.support.home_server import wait_until
from tests.support.limits import PATIENCE

FOLDER = "loras"
KEY = "a-key-of-the-test"


class Syncthing:
    """One device with one folder; `kind` is Syncthing's `type` of it."""

    def __init__(self, home: Path, folder: Path, kind: str) -> None:
        self.folder = folder
        self._home = home
        self._kind = kind
        self._port, self._gui = _free_port(), _free_port()
        _run("generate", "--home", home, "--no-default-folder")
        _local_only(home / "config.xml")

    def __enter__(self) -> Self:
        env = {"STGUIADDRESS": f"127.0.0.1:{self._gui}", "STGUIAPIKEY": KEY, "STNOUPGRADE": "1"}
        with (self._home / "out").open("wb") as out:
            self.process = subprocess.Popen(
                ["syncthing", "serve", "--home", str(self._home), "--no-browser", "--no-restart"],
                env={**os.environ, **env},
                stdout=out,
                stderr=out,
            )
        wait_until(self._answers, "Syncthing answers")
        self.device = self.ask("system/status")["myID"]
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(PATIENCE)

    def share_with(self, other: Syncthing) -> None:
        """The folder, with one other device."""
        config = self.ask("config")
        config["options"] |= {"listenAddresses": [f"tcp://127.0.0.1:{self._port}"]}
        config["devices"].append(
            {"deviceID": other.device, "addresses": [f"tcp://127.0.0.1:{other._port}"]}
        )
        config["folders"] = [
            {
                "id": FOLDER,
                "path": str(self.folder),
                "type": self._kind,
                "devices": [{"deviceID": self.device}, {"deviceID": other.device}],
                "fsWatcherEnabled": False,
                "rescanIntervalS": 0,
            }
        ]
        self.ask("config", config)

    def scan(self) -> dict[str, Any]:
        """Look at all files now; what the folder then counts."""
        self.ask(f"db/scan?folder={FOLDER}", {})
        return self.status()

    def status(self) -> dict[str, Any]:
        return self.ask(f"db/status?folder={FOLDER}")

    def ask(self, what: str, send: Any = None) -> Any:
        method = "GET" if send is None else "PUT" if what == "config" else "POST"
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._gui}/rest/{what}",
            data=None if send is None else json.dumps(send).encode(),
            headers={"X-API-Key": KEY},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:  # noqa: S310  http, to this machine
            text = answer.read()
        return json.loads(text) if text else None

    def _answers(self) -> bool:
        try:
            self.ask("system/ping")
        except (urllib.error.URLError, ConnectionError):
            return False
        return True


def _local_only(config: Path) -> None:
    """Before the first start: no announcements, relays or reports."""
    text = config.read_text()
    for option in (
        "globalAnnounceEnabled",
        "localAnnounceEnabled",
        "relaysEnabled",
        "natEnabled",
        "crashReportingEnabled",
    ):
        text, count = re.subn(f"<{option}>true</{option}>", f"<{option}>false</{option}>", text)
        assert count == 1, option
    text = re.sub("<listenAddress>.*?</listenAddress>", "", text)
    config.write_text(text.replace("<urAccepted>0<", "<urAccepted>-1<"))


def _run(*arguments: str | Path) -> None:
    subprocess.run(["syncthing", *arguments], check=True, capture_output=True, timeout=PATIENCE)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
