"""The system call renameat2: exchanges two names, or renames onto a free name only."""

from __future__ import annotations

import ctypes
import errno
import os
import platform

_RENAME_NOREPLACE = 1
_RENAME_EXCHANGE = 2
_NOT_SUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)
# For a libc without the symbol (glibc before 2.28, musl).
_SYSCALL = {
    "x86_64": 316, "aarch64": 276, "riscv64": 276, "loongarch64": 276, "i686": 353, "i386": 353,
    "armv7l": 382, "armv6l": 382, "ppc64le": 357, "ppc64": 357, "s390x": 347,
}  # fmt: skip


class NotSupported(OSError):
    """The kernel or the filesystem has no such rename."""


def exchange(folder_fd: int, a: str, b: str) -> None:
    """Exchange two names of one folder in one step.

    Raises NotSupported, FileNotFoundError, OSError.
    """
    _renameat2(folder_fd, a, folder_fd, b, _RENAME_EXCHANGE)


def rename_noreplace(from_fd: int, source: str, to_fd: int, target: str) -> None:
    """Rename onto a free name. Raises NotSupported, FileExistsError, OSError."""
    _renameat2(from_fd, source, to_fd, target, _RENAME_NOREPLACE)


def move_onto_free_name(from_fd: int, source: str, to_fd: int, target: str) -> None:
    """As rename_noreplace, also on a filesystem that has no such rename; never overwrites.

    On such a filesystem a crash may leave both names, or an empty file under `target`.
    """
    try:
        rename_noreplace(from_fd, source, to_fd, target)
    except NotSupported:
        try:
            os.link(source, target, src_dir_fd=from_fd, dst_dir_fd=to_fd, follow_symlinks=False)
        except FileExistsError:
            raise
        except OSError as error:
            if error.errno not in (errno.EPERM, *_NOT_SUPPORTED):
                raise
            _reserve(to_fd, target)
            os.replace(source, target, src_dir_fd=from_fd, dst_dir_fd=to_fd)
        else:
            os.unlink(source, dir_fd=from_fd)


def _reserve(folder_fd: int, name: str) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    os.close(os.open(name, flags, 0o600, dir_fd=folder_fd))


def _renameat2(from_fd: int, source: str, to_fd: int, target: str, flags: int) -> None:
    code = _call(from_fd, os.fsencode(source), to_fd, os.fsencode(target), flags)
    if code in _NOT_SUPPORTED:
        raise NotSupported(code, os.strerror(code), source, None, target)
    if code:
        raise OSError(code, os.strerror(code), source, None, target)


def _call(from_fd: int, source: bytes, to_fd: int, target: bytes, flags: int) -> int:
    """The errno; 0 for success."""
    libc = ctypes.CDLL(None, use_errno=True)
    arguments = (ctypes.c_int(from_fd), source, ctypes.c_int(to_fd), target, ctypes.c_uint(flags))
    if hasattr(libc, "renameat2"):
        failed = libc.renameat2(*arguments)
    elif platform.machine() in _SYSCALL:
        failed = libc.syscall(ctypes.c_long(_SYSCALL[platform.machine()]), *arguments)
    else:
        return errno.ENOSYS
    return ctypes.get_errno() if failed else 0
