"""A folder on a FUSE filesystem whose server can be stopped: then no call to it returns."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Self

from tests.support.home_server import wait_until


class BindFs:
    """bindfs shows `source` at `folder` for the length of a `with` block."""

    def __init__(self, source: Path, folder: Path) -> None:
        self.source, self.folder = source, folder

    def __enter__(self) -> Self:
        self.source.mkdir(exist_ok=True)
        self.folder.mkdir(exist_ok=True)
        self._server = subprocess.Popen(["bindfs", "-f", self.source, self.folder])
        wait_until(lambda: os.path.ismount(self.folder), "mounted")
        return self

    def __exit__(self, *_: object) -> None:
        self.answer()
        subprocess.run(["umount", "-l", self.folder], check=True)
        self._server.wait(60)

    def hang(self) -> None:
        """The server stops: from now on no call returns."""
        self._server.send_signal(signal.SIGSTOP)
        wait_until(self._stands_still, "no thread of the server runs")

    def _stands_still(self) -> bool:
        """Until the last thread has stopped, it may answer."""
        states = [
            (task / "stat").read_text().rpartition(")")[2].split()[0]
            for task in Path(f"/proc/{self._server.pid}/task").iterdir()
        ]
        return set(states) == {"T"}

    def answer(self) -> None:
        """The server runs again."""
        self._server.send_signal(signal.SIGCONT)
