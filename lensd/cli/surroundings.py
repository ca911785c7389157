"""Makes what a process inherits usable: standard streams that are closed, and the terminal's size.

Without it the next file that lensd opens gets the number of a closed stream, and what a library
prints goes into that file.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Any

OUTPUT = "<stdout>"  # the `filename` of an OSError that stdout raised
DIGITS = 4  # of columns or lines; more are no size of a terminal


class _Output(io.FileIO):
    """Stdout, whose errors name it."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            error.filename = OUTPUT
            raise


def prepare() -> None:
    """Call it before anything else is opened or printed."""
    _open_closed_streams()
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout is sys.__stdout__:
        sys.stdout = _name_errors(sys.stdout)
    for name in ("COLUMNS", "LINES"):
        if name in os.environ and not _is_size(os.environ[name]):
            del os.environ[name]  # then the terminal is asked


def silence_stdout() -> None:
    """Drop all further output, and what is buffered."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def _open_closed_streams() -> None:
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # it is closed: the lowest free number is this one
            null = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(null, True)  # noqa: FBT003 - has no name
    # Python sets those to None that were closed when it started.
    sys.stdin = sys.stdin or os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", encoding="utf-8", closefd=False)


def _name_errors(stream: io.TextIOWrapper[Any]) -> io.TextIOWrapper[Any]:
    """The same descriptor and encoding, written through `_Output`."""
    stream.flush()
    raw = _Output(stream.fileno(), "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.isatty(),
    )


def _is_size(text: str) -> bool:
    return text.isdecimal() and len(text) <= DIGITS and int(text) > 0
