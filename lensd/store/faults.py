"""What a disk's error codes mean for a file's job."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from lensd.errors import Failed


class Interrupted(Exception):
    """`stop()` became true between two chunks; nothing was changed."""


@contextmanager
def disk_faults(path: str) -> Iterator[None]:
    """Turn a full or broken disk at `path` into Failed(`no_space` | `io_error`)."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            why = "over the quota" if error.errno == errno.EDQUOT else "full"
            raise Failed(
                "no_space",
                f"the disk of {path} is {why}: free some space there, then `lensd retry`",
            ) from error
        if error.errno == errno.EROFS:
            raise Failed(
                "io_error",
                f"the disk of {path} is read-only: remount it writable, then `lensd retry`",
            ) from error
        if error.errno == errno.EIO:
            raise Failed(
                "io_error",
                f"the disk of {path} reported an I/O error: see `dmesg` and check the disk",
            ) from error
        raise


def unreadable() -> Failed:
    """The end of a file that lensd may not open."""
    return Failed(
        "unreadable",
        "lensd may not read the file; give its user read permission (`chmod`, `setfacl`)",
    )


def path_of(fd: int) -> str:
    """Where an open file or folder is now, for messages only."""
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return f"file descriptor {fd}"
