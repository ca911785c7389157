"""A real terminal: a program at a pseudo-terminal of a given size, and what a person then sees."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

PATIENCE = 20.0
# Sequences that colour, move and clear; and the characters no name may send to a terminal.
CONTROLS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07|\x1b[=>]")
COLOURS = re.compile(r"\x1b\[(?:\d+;)*(?:3\d|4\d|9\d|10\d)(?:;\d+)*m")


class AtTerminal:
    """A running program whose three descriptors are one terminal. To be entered with `with`."""

    def __init__(
        self,
        command: Sequence[str | Path],
        folder: Path,
        *,
        columns: int = 80,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        plain = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLUMNS", "LINES")}
        self._process = subprocess.Popen(
            list(map(str, command)),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=folder,
            env={**plain, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8", **(env or {})},
            start_new_session=True,
        )
        os.close(slave)
        self.raw = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._master)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def wait_for(self, text: str) -> None:
        """Until it was shown. Raises AssertionError."""
        deadline = time.monotonic() + PATIENCE
        while text not in self.seen:
            assert time.monotonic() < deadline, f"{text!r} did not come: {self.raw!r}"
            assert self._read(), f"{text!r} did not come before its end: {self.raw!r}"

    def wait(self) -> int:
        """Its exit code, when all was read that it wrote."""
        while self._read():
            pass
        return self._process.wait(PATIENCE)

    @property
    def seen(self) -> str:
        """All text that it wrote, without colours and movements."""
        return CONTROLS.sub("", self.raw).replace("\r\n", "\n")

    def _read(self) -> bool:
        """False when there will be no more."""
        ready, _, _ = select.select([self._master], [], [], PATIENCE)
        assert ready, f"silent for {PATIENCE:g} s: {self.raw!r}"
        with suppress(OSError):  # how Linux says that nobody has it open any more
            data = os.read(self._master, 65536)
            self.raw += data.decode(errors="replace")
            return bool(data)
        return False
