"""Exchange two names, and find out where a filesystem only says that it did.

exfat-fuse reports success and renames one file over the other; where the other one is open, it
crashes. So a FUSE filesystem is tried first, with two small files of lensd's own.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform

from lensd.store.fs import identity_at, new_token, temporary_name
from lensd.store.rename import NotSupported, exchange

_FUSE = 0x65735546  # statfs(2), also of virtiofs
_SIZES = [0, 1]  # of the two small files, in bytes


def swap(folder_fd: int, source: str, target: str) -> None:
    """Exchange two names of one folder. Raises NotSupported, FileNotFoundError, OSError.

    NotSupported also where nothing happened. A filesystem that is not FUSE may rename `source` to
    `target` instead: so `source` has to be the file that is wanted under `target`, and the caller
    checks whether `source` still exists.
    """
    if _may_be_fuse(folder_fd) and not _exchanges(folder_fd):
        raise _not_supported(source, target)
    before = identity_at(folder_fd, source), identity_at(folder_fd, target)
    exchange(folder_fd, source, target)
    if before == (identity_at(folder_fd, source), identity_at(folder_fd, target)):
        raise _not_supported(source, target)


def _exchanges(folder_fd: int) -> bool:
    """Whether the filesystem really exchanges two names, tried with two files."""
    names = [temporary_name(new_token()) for _ in _SIZES]
    try:
        for name, size in zip(names, _SIZES, strict=True):
            _write(folder_fd, name, b"-" * size)
        exchange(folder_fd, *names)
        found = [identity_at(folder_fd, name) for name in names]
        return [f.size if f else None for f in found] == _SIZES[::-1]
    except NotSupported:
        return False
    finally:
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=folder_fd)


def _write(folder_fd: int, name: str, content: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with open(os.open(name, flags, 0o600, dir_fd=folder_fd), "wb") as file:
        file.write(content)


def _may_be_fuse(fd: int) -> bool:
    """Whether a folder's filesystem is a FUSE one, or the kernel does not say."""
    word = ctypes.c_uint32 if platform.machine() == "s390x" else ctypes.c_ulong
    statfs = ctypes.create_string_buffer(512)  # its first member is the type
    if ctypes.CDLL(None).fstatfs(ctypes.c_int(fd), statfs):
        return True
    return word.from_buffer(statfs).value & 0xFFFFFFFF == _FUSE


def _not_supported(source: str, target: str) -> NotSupported:
    return NotSupported(errno.ENOTSUP, os.strerror(errno.ENOTSUP), source, None, target)
