"""One lensd per state folder."""

from __future__ import annotations

import fcntl
import os
from types import TracebackType
from typing import Self

from lensd.errors import LockedError, StorageError


class StateLock:
    """Holds `<state>/lock` while open. The kernel drops it with the process, however that ends."""

    def __init__(self, folder: str) -> None:
        self._path = os.path.join(folder, "lock")
        try:
            os.makedirs(folder, mode=0o750, exist_ok=True)
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError as error:
            raise StorageError(
                f"the state folder {folder} cannot be used: {error.strerror}; create it for the "
                "user that runs lensd, or set `state.path`"
            ) from None
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._fd)
            raise LockedError(
                f"another lensd (process {holder}) works with the state folder {folder}; stop it "
                "first, or give this one a `state.path` of its own"
            ) from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._fd)


def holder(folder: str) -> int | None:
    """The process that holds the lock of a state folder, None if nobody does."""
    try:
        fd = os.open(os.path.join(folder, "lock"), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
        return int(text) if text.isdigit() else 0
    finally:
        os.close(fd)
    return None
