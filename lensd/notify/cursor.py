"""What was reported so far, in a file of the state folder that all notifying processes share."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from lensd.errors import StorageError

NAME = "notified.json"


class Cursor(msgspec.Struct, kw_only=True):
    """Times are seconds since 1970."""

    until: float  # failures up to this time are reported
    problems: list[str] = []  # keys of the problems that are reported and last
    weekly: float  # when the last summary was sent
    sent: float = 0.0  # when the last message was sent

    @classmethod
    def start(cls, now: float) -> Cursor:
        """Report nothing of the past."""
        return cls(until=now, weekly=now)


class CursorFile:
    """The open file, under its lock."""

    def __init__(self, path: str, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    def read(self, since: float | None = None) -> Cursor:
        """A new file, or one that is damaged, begins at `since`, else now.

        A time in the future becomes now. Raises StorageError.
        """
        now = time.time()
        try:
            cursor = msgspec.json.decode(os.pread(self._descriptor, 1 << 20, 0), type=Cursor)
        except msgspec.DecodeError:
            cursor = Cursor.start(now if since is None else since)
            self.write(cursor)
        cursor.until, cursor.weekly = min(cursor.until, now), min(cursor.weekly, now)
        cursor.sent = min(cursor.sent, now)
        return cursor

    def write(self, cursor: Cursor) -> None:
        """Replace the content. Raises StorageError."""
        data = msgspec.json.encode(cursor)
        try:
            os.pwrite(self._descriptor, data, 0)
            os.ftruncate(self._descriptor, len(data))
        except OSError as error:
            raise StorageError(f"cannot write {self._path}: {error.strerror}") from error


@contextmanager
def locked(state: str) -> Iterator[CursorFile]:
    """The file of a state folder; another process that notifies waits. Raises StorageError."""
    path = os.path.join(state, NAME)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise StorageError(
            f"cannot open {path}: {error.strerror}; run `lensd notify` as the user of the daemon, "
            "after its first start"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield CursorFile(path, descriptor)
    finally:
        os.close(descriptor)
