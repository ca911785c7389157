"""Errors of a disk as errors of a file's job."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from lensd.errors import Failed, Reason


class Interrupted(Exception):
    """`stop()` returned True between two chunks; nothing was changed."""


@contextmanager
def disk_faults(where: str | int) -> Iterator[None]:
    """Raise Failed(`no_space` | `read_only` | `io_error`) for an error of a full or broken disk.

    `where` is a path on it, or the descriptor of a file or folder there.
    """
    try:
        yield
    except OSError as error:
        failed = fault_of(error, where)
        if failed is None:
            raise
        raise failed from error


def fault_of(error: OSError, where: str | int) -> Failed | None:
    """The failure by a full or broken disk, as `disk_faults` raises it; None for other errors."""
    if error.errno not in _FAULTS:
        return None
    path = path_of(where) if isinstance(where, int) else where
    reason, message = _FAULTS[error.errno]
    return Failed(reason, message.format(path), disk=path)


_FAULTS = {
    errno.ENOSPC: (Reason.NO_SPACE, "the disk of {} is full: free some space there"),
    errno.EDQUOT: (
        Reason.NO_SPACE,
        "the quota on the disk of {} is used up: free some space there",
    ),
    errno.EROFS: (Reason.READ_ONLY, "the disk of {} is read-only: remount it writable"),
    errno.EIO: (
        Reason.IO_ERROR,
        "the disk of {} reported an I/O error: see `dmesg` and check the disk",
    ),
}


def unreadable() -> Failed:
    """The failure of a file that lensd may not open."""
    return Failed(
        Reason.UNREADABLE,
        "lensd may not read the file; give its user read permission (`chmod`, `setfacl`)",
    )


def path_of(fd: int) -> str:
    """The present path of an open file or folder, for messages only."""
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return f"file descriptor {fd}"
