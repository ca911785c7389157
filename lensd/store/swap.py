"""Exchanges two names, and detects a filesystem that reports success without an exchange.

exfat-fuse reports success and renames one file over the other; if the other file is open, it
crashes. So lensd first tries every FUSE filesystem with two small files of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform

from lensd.store.fs import identity_at, new_token, temporary_name
from lensd.store.rename import NotSupported, exchange
from lensd.store.staging import create

_FUSE = 0x65735546  # statfs(2), also of virtiofs
_SIZES = [0, 1]  # of the two small files, in bytes


def swap(folder_fd: int, source: str, target: str) -> None:
    """Exchange two names of one folder. Raises NotSupported, FileNotFoundError, OSError.

    NotSupported also if the names are as before. A filesystem that is not FUSE may rename `source`
    to `target` instead. So `source` must be the file that should get the name `target`, and the
    caller must check whether the name `source` still exists.
    """
    if _may_be_fuse(folder_fd) and not _exchanges(folder_fd):
        raise _not_supported(source, target)
    before = identity_at(folder_fd, source), identity_at(folder_fd, target)
    exchange(folder_fd, source, target)
    if before == (identity_at(folder_fd, source), identity_at(folder_fd, target)):
        raise _not_supported(source, target)


def _exchanges(folder_fd: int) -> bool:
    """Whether the filesystem exchanges the names of two new files."""
    names = [temporary_name(new_token()) for _ in _SIZES]
    try:
        for name, size in zip(names, _SIZES, strict=True):
            with open(create(folder_fd, name), "wb") as file:
                file.write(b"-" * size)
        exchange(folder_fd, *names)
        found = [identity_at(folder_fd, name) for name in names]
        return [f.size if f else None for f in found] == _SIZES[::-1]
    except NotSupported:
        return False
    finally:
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=folder_fd)


def _may_be_fuse(fd: int) -> bool:
    """Whether the filesystem of a folder is FUSE, or of a type that the kernel does not report."""
    word = ctypes.c_uint32 if platform.machine() == "s390x" else ctypes.c_ulong
    statfs = ctypes.create_string_buffer(512)  # its first member is the type
    if ctypes.CDLL(None).fstatfs(ctypes.c_int(fd), statfs):
        return True
    return word.from_buffer(statfs).value & 0xFFFFFFFF == _FUSE


def _not_supported(source: str, target: str) -> NotSupported:
    return NotSupported(errno.ENOTSUP, os.strerror(errno.ENOTSUP), source, None, target)
