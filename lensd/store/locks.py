"""Locks: one lensd per state folder, and per watched folder.

The lock of a watched folder must not prevent that its disk is unmounted. So it is a lock on a range
of bytes of `/`, which lensd opens read-only and never reads. The range begins at a number computed
from the folder's device and inode. Its length is the process id of the holder, which the message of
another process names. Locks beyond the end of a file cost nothing and leave nothing behind; the
kernel drops them with the process. They are open file description locks: another close of `/` in
this process does not drop them.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import struct
import time
from contextlib import suppress
from typing import Self

from lensd.errors import LockedError, StorageError

_FLOCK = "hhqqi4x"  # l_type, l_whence, l_start, l_len, l_pid (0 for these locks)
# Between two looks at a lock that `holder` has, and how many there are.
_LOOK_SECONDS = 0.005
_LOOKS = 1000
_PID_BITS = 22  # the kernel's limit: 4 Mi processes


class StateLock:
    """The lock on `<state>/lock`, until the end of the block or of the process."""

    def __init__(self, folder: str) -> None:
        try:
            os.makedirs(folder, mode=0o750, exist_ok=True)
            path = os.path.join(folder, "lock")
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
            try:
                _lock_alone(self._fd, folder)
                os.ftruncate(self._fd, 0)
                os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)
            except BaseException:
                os.close(self._fd)
                raise
        except OSError as error:
            pid = holder(folder)  # the group of a daemon may read its lock, not write to it
            if isinstance(error, PermissionError) and pid is not None:
                raise LockedError(_in_use(folder, str(pid or "unknown"))) from None
            raise StorageError(
                f"the state folder {folder} cannot be used: {error.strerror}; "
                f"{_remedy(folder, error)}, or set `state.path`"
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def _lock_alone(fd: int, folder: str) -> None:
    """Raises LockedError if another lensd has the lock, and not `holder` for a moment; OSError."""
    for _ in range(_LOOKS):
        with suppress(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            break
        fcntl.flock(fd, fcntl.LOCK_UN)
        time.sleep(_LOOK_SECONDS)
    raise LockedError(_in_use(folder, _read_pid(fd) or "unknown"))


def _remedy(folder: str, error: OSError) -> str:
    if isinstance(error, PermissionError) and os.path.lexists(folder):
        return "run the command as the user that owns it (`sudo -u USER lensd ...`)"
    return "create it for the user that runs lensd, free space on its disk"


def _in_use(folder: str, pid: str) -> str:
    return (
        f"another lensd (process {pid}) uses the state folder {folder}. `lensd status` shows what "
        "it does; through a running daemon work `once`, `restore`, `retry`, `prune`, `pause` and "
        f"`resume`. To stop it: `systemctl stop lensd` if it is the service, else `kill {pid}`. "
        "To run beside it, this one needs a `state.path` of its own"
    )


def _read_pid(fd: int) -> str:
    return os.pread(fd, 32, 0).decode("ascii", "replace").strip()


def holder(folder: str) -> int | None:
    """The process that holds the lock of a state folder, None if it is free; 0: unknown."""
    try:
        fd = os.open(os.path.join(folder, "lock"), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        text = _read_pid(fd)
        return int(text) if text.isdigit() else 0
    finally:
        os.close(fd)
    return None


class Claims:
    """The locks of this process on watched folders, until `close`."""

    def __init__(self) -> None:
        self._fd = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        os.close(self._fd)

    def claim(self, folder: str) -> None:
        """Lock a folder. Raises LockedError, which names the other process; OSError.

        It locks first and looks for another lock afterwards: of two processes that start at once,
        at least one sees the other.
        """
        start = _offset(os.stat(folder))
        try:
            _lock(self._fd, fcntl.F_RDLCK, start, os.getpid())
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOLCK, errno.ENOTSUP):
                return  # a root filesystem without locks
            raise
        holder = self._find_holder(start)
        if holder is not None:
            with suppress(OSError):
                _lock(self._fd, fcntl.F_UNLCK, start, os.getpid())
            raise LockedError(
                f"another lensd (process {holder}) watches the folder {folder}: stop it "
                f"(`systemctl stop lensd` if it is the service, else `kill {holder}`), or take the "
                "folder out of one of the two configurations"
            )

    def _find_holder(self, start: int) -> int | None:
        """The process whose lock conflicts with a write lock, which no lensd ever takes."""
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, start, 1, 0)
        answer = fcntl.fcntl(self._fd, fcntl.F_OFD_GETLK, asked)
        kind, _, found, length, _ = struct.unpack(_FLOCK, answer)
        is_held = kind != fcntl.F_UNLCK and found == start and length != os.getpid()
        return int(length) if is_held else None


def _offset(stat: os.stat_result) -> int:
    """The byte at which a folder's lock begins; locks of two folders never overlap."""
    digest = hashlib.sha256(f"lensd {stat.st_dev} {stat.st_ino}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> (64 - (62 - _PID_BITS)) << _PID_BITS


def _lock(fd: int, kind: int, start: int, length: int) -> None:
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack(_FLOCK, kind, os.SEEK_SET, start, length, 0))
