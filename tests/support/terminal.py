"""A program at a real pseudo-terminal of some width, and the screen that it draws."""

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

import pyte

from tests.support.limits import PATIENCE

LINES = 120  # so many that nothing scrolls away
COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3\d|4\d|9\d|10\d)(?:;\d+)*m")


class AtTerminal:
    """A running program whose three descriptors are one terminal, to be entered with `with`."""

    def __init__(
        self,
        command: Sequence[str | Path],
        folder: Path,
        *,
        columns: int = 80,
        env: Mapping[str, str] | None = None,
        screen: pyte.Screen | None = None,
    ) -> None:
        """`screen`: one that has the output of earlier programs."""
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, columns, 0, 0))
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
        self._screen = screen or pyte.Screen(columns, LINES)
        self._stream = pyte.ByteStream(self._screen)
        self.raw = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._master)

    @property
    def lines(self) -> list[str]:
        """The lines on the screen now; one that is too long for it is several."""
        found = [line.rstrip() for line in self._screen.display]
        while found and not found[-1]:
            found.pop()
        return found

    @property
    def text(self) -> str:
        """The screen as one text."""
        return "".join(f"{line}\n" for line in self.lines)

    @property
    def colours(self) -> list[str]:
        """The escape sequences for colours that the program sent."""
        return COLOUR.findall(self.raw.decode(errors="replace"))

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def wait_for(self, pattern: str) -> None:
        """Return when the screen's text matches. Raises AssertionError."""
        deadline = time.monotonic() + PATIENCE
        while not re.search(pattern, self.text, re.MULTILINE):
            assert time.monotonic() < deadline, f"{pattern!r} did not come: {self.text}"
            assert self._read(), f"it ended before {pattern!r} came: {self.text}"

    def wait(self) -> int:
        """Read until the program ends; return its exit code."""
        while self._read():
            pass
        return self._process.wait(PATIENCE)

    def _read(self) -> bool:
        """False when there will be no more."""
        ready, _, _ = select.select([self._master], [], [], PATIENCE)
        assert ready, f"silent for {PATIENCE:g} s: {self.text}"
        with suppress(OSError):  # EIO: no process has it open any more
            data = os.read(self._master, 65536)
            self.raw += data
            self._stream.feed(data)
            return bool(data)
        return False
