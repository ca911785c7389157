"""One lensd per watched folder, also when each has a state folder of its own.

A lock on the folder itself would keep its disk from being unmounted. So the lock is a range of
bytes of `/`, which is open for reading only and never read: it begins at a number made of the
folder's device and inode, and its length is the process id of the holder, for the other one's
message. Locks beyond the end of a file cost nothing and leave nothing behind; the kernel drops them
with the process. Open file description locks: closing `/` elsewhere in this process keeps them.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import struct
from contextlib import suppress
from types import TracebackType
from typing import Self

from lensd.errors import LockedError

_FLOCK = "hhqqi4x"  # l_type, l_whence, l_start, l_len, l_pid (0 for these locks)
_PID_BITS = 22  # the kernel's limit: 4 Mi processes


class Claims:
    """Holds the claims of this process on folders while open."""

    def __init__(self) -> None:
        self._fd = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        os.close(self._fd)

    def claim(self, folder: str) -> None:
        """Raises LockedError, naming the process that has it; OSError when it is not there.

        First locked, then looked: of two that come at once at least one sees the other.
        """
        start = _place(os.stat(folder))
        try:
            _lock(self._fd, fcntl.F_RDLCK, start, os.getpid())
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOLCK, errno.ENOTSUP):
                return  # a root filesystem without locks
            raise
        holder = self._other(start)
        if holder is not None:
            with suppress(OSError):
                _lock(self._fd, fcntl.F_UNLCK, start, os.getpid())
            raise LockedError(
                f"another lensd (process {holder}) watches the folder {folder}; stop it first, or "
                "take the folder out of one of the two configurations"
            )

    def _other(self, start: int) -> int | None:
        """Whose lock a lock for writing, which nobody ever takes, would meet."""
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, start, 1, 0)
        answer = fcntl.fcntl(self._fd, fcntl.F_OFD_GETLK, asked)
        kind, _, found, length, _ = struct.unpack(_FLOCK, answer)
        is_held = kind != fcntl.F_UNLCK and found == start and length != os.getpid()
        return int(length) if is_held else None


def _place(stat: os.stat_result) -> int:
    """Where a folder's lock begins, so that locks of two folders never overlap."""
    digest = hashlib.sha256(f"lensd {stat.st_dev} {stat.st_ino}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> (64 - (62 - _PID_BITS)) << _PID_BITS


def _lock(fd: int, kind: int, start: int, length: int) -> None:
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack(_FLOCK, kind, os.SEEK_SET, start, length, 0))
