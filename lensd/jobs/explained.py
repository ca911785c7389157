"""Errors of the system as messages with file, cause and remedy, where lensd changes a file."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from lensd.errors import Failed, Reason, Skipped
from lensd.store.attributes import is_protected


def require_changeable(fd: int, path: str) -> None:
    """Raises Skipped(`immutable`) for an open file that the kernel does not let lensd replace."""
    if is_protected(fd):
        raise immutable(path)


@contextmanager
def explained(path: str, original: str) -> Iterator[None]:
    """Raise FileError for an OSError of a step with a watched file and its archived original."""
    try:
        yield
    except OSError as error:
        raise _explain(error, path, original) from error


def _explain(error: OSError, path: str, original: str) -> Failed | Skipped:
    if error.errno == errno.ENOENT and not os.path.lexists(original):
        return Failed(
            Reason.IO_ERROR,
            f"the archived original {original} is not there: mount the disk of the archive, or "
            "copy the file back from a backup; `lensd verify` lists all that is missing",
        )
    if error.errno == errno.ENOENT:
        return Failed(
            Reason.IO_ERROR,
            f"the folder of {path} is not there: mount its disk, or create the folder",
        )
    if error.errno == errno.EPERM:
        return immutable(path)
    if error.errno == errno.EACCES:
        return Failed(
            Reason.UNREADABLE,
            f"lensd may not change {error.filename or path}: give its user the rights for the "
            "file and its folder (`ls -ld`, `chmod`, `setfacl`)",
        )
    where = f" at {error.filename}" if error.filename else ""
    return Failed(
        Reason.IO_ERROR,
        f"{error.strerror or error}{where}, for {path}: check rights and disk (`dmesg`); all bytes "
        "are where they were, or in the archive",
    )


def immutable(path: str) -> Skipped:
    """The end of a file that may not be replaced."""
    return Skipped(
        Reason.IMMUTABLE,
        f"the kernel does not permit lensd to replace {path}: it, or its folder, is immutable or "
        "append-only (`lsattr` shows that, `chattr -i -a` ends it), or its folder is sticky and "
        "the file has another owner",
    )
