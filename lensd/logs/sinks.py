"""Where log lines go. A line that cannot be written is lost; it never stops the daemon."""

from __future__ import annotations

import os
import select
import sys
import threading
from contextlib import suppress
from typing import Protocol, Self

from lensd.errors import StorageError

MAX_BYTES = 10_000_000
KEPT_FILES = 5
_READER_MS = 2000  # that a non-blocking stdout's reader has to make room


class Sink(Protocol):
    """Takes one line, without its end. From any thread."""

    def write(self, line: bytes) -> None: ...


class StreamSink:
    """An open descriptor (stdout), one write a line. None: there is no stdout to write to."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor
        self._torn = False
        # A signal handler may log while its own thread is writing.
        self._lock = threading.RLock()

    @classmethod
    def stdout(cls) -> Self:
        """Python's own: a daemon started without one may have the ledger open as descriptor 1."""
        try:
            return cls(sys.stdout.fileno())
        except (AttributeError, ValueError, OSError):
            return cls(None)

    def write(self, line: bytes) -> None:
        if self._descriptor is None:
            return
        with self._lock, suppress(OSError):
            start = b"\n" if self._torn else b""
            self._torn = True
            _write(self._descriptor, start + line + b"\n")
            self._torn = False


class NullSink:
    """Drops all lines: a terminal that shows them in another form takes none of them."""

    def write(self, line: bytes) -> None:
        """Drop it."""


class FileSink:
    """A file that is rotated at `max_bytes`: NAME, NAME.1, ... NAME.5, all with `mode`."""

    def __init__(
        self, path: str, mode: int, *, max_bytes: int = MAX_BYTES, kept: int = KEPT_FILES
    ) -> None:
        self._path, self._mode, self._max_bytes, self._kept = path, mode, max_bytes, kept
        self._lock = threading.RLock()
        try:
            os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
            self._descriptor = _open(path, mode)
        except OSError as error:
            raise StorageError(
                f"cannot open the log {path}: {error.strerror}; correct log.path, or give lensd "
                "write permission there"
            ) from error

    def __del__(self) -> None:
        """A reload makes another sink; the last thread that writes to this one drops it."""
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)

    def write(self, line: bytes) -> None:
        with self._lock, suppress(OSError):
            self._reopen_if_moved()
            size = os.fstat(self._descriptor).st_size
            if size and size + len(line) + 1 > self._max_bytes:
                self._rotate()
                size = os.fstat(self._descriptor).st_size
            try:
                _write(self._descriptor, line + b"\n")
            except OSError:
                os.ftruncate(self._descriptor, size)  # a full disk leaves no half line

    def _reopen_if_moved(self) -> None:
        """Another program (logrotate) or a person may have moved or removed the file."""
        try:
            there = os.stat(self._path)
        except FileNotFoundError:
            self._reopen()
            return
        if not os.path.samestat(there, os.fstat(self._descriptor)):
            self._reopen()

    def _rotate(self) -> None:
        with suppress(OSError):
            for number in range(self._kept - 1, 0, -1):
                with suppress(FileNotFoundError):
                    os.replace(f"{self._path}.{number}", f"{self._path}.{number + 1}")
            os.replace(self._path, f"{self._path}.1")
            self._reopen()

    def _reopen(self) -> None:
        fresh = _open(self._path, self._mode)
        os.close(self._descriptor)
        self._descriptor = fresh


def _open(path: str, mode: int) -> int:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags | os.O_EXCL, mode)
    except FileExistsError:
        return os.open(path, flags, mode)
    os.fchmod(descriptor, mode)  # the umask may have taken some of it
    return descriptor


def _write(descriptor: int, data: bytes) -> None:
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:
            if not _writable(descriptor):
                raise


def _writable(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(_READER_MS))
