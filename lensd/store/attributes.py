"""Copies mode, owner, ACL, `user.*` attributes and times from one open file to another."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct
import sys

from lensd.errors import Reason, Skipped
from lensd.store.disk_errors import disk_faults

_ACL = "system.posix_acl_access"
_FOLDER_ACLS = (_ACL, "system.posix_acl_default")
_DENIED = (errno.EPERM, errno.EACCES, errno.ENOTSUP)
_ABSENT = (errno.ENODATA, errno.ENOTSUP)
_GET_FLAGS = 0x80006601 | struct.calcsize("l") << 16  # FS_IOC_GETFLAGS; see ioctl_iflags(2)
_IMMUTABLE_OR_APPEND_ONLY = 0x10 | 0x20


def is_protected(fd: int) -> bool:
    """Whether an open file is immutable or append-only, so that its name cannot be taken."""
    try:
        flags = fcntl.ioctl(fd, _GET_FLAGS, bytes(8))
    except OSError:  # the filesystem has no such flags
        return False
    return bool(int.from_bytes(flags[:4], sys.byteorder) & _IMMUTABLE_OR_APPEND_ONLY)


def copy_attributes(source_fd: int, target_fd: int, *, preserve_mtime: bool) -> None:
    """Copy all attributes; with `preserve_mtime` also the times of access and modification.

    Sets all that lensd may set before it raises Skipped(`owner`) for the rest, so that a caller
    that needs less can ignore the error. The owner comes last: then lensd may lose its rights.
    """
    source = os.fstat(source_fd)
    with disk_faults(target_fd):
        denied = _copy_extended(source_fd, target_fd)
        _try_chmod(target_fd, source.st_mode & 0o777)
        if preserve_mtime:
            os.utime(target_fd, ns=(source.st_atime_ns, source.st_mtime_ns))
        denied += _copy_owner(source, target_fd)
    if denied:
        raise Skipped(
            Reason.OWNER,
            f"lensd may not copy the original's {', '.join(denied)}: run it as the owner of the "
            "files, or with CAP_CHOWN and CAP_FOWNER in its unit's AmbientCapabilities=",
        )


def copy_folder_rights(source_fd: int, target_fd: int, *, at_most: int = 0o7777) -> None:
    """Give an open folder owner, group, ACLs and mode of another, as far as lensd may.

    The folder is never more open than the source: without the source's group or ACL its group may
    do what all others may. It gets no bit of the mode that `at_most` lacks, except those that its
    owner needs where that is lensd's user.
    """
    source = os.fstat(source_fd)
    with disk_faults(target_fd):
        _try_chown(target_fd, -1, source.st_gid)
        mode = stat.S_IMODE(source.st_mode)
        if os.fstat(target_fd).st_gid != source.st_gid or not _copy_acls(source_fd, target_fd):
            everyone = mode >> 3 & mode & 0o007
            mode = mode & 0o700 | everyone << 3 | everyone
        _try_chmod(target_fd, mode & at_most)
        _try_chown(target_fd, source.st_uid, -1)
        if os.fstat(target_fd).st_uid != source.st_uid:
            _try_chmod(target_fd, mode & at_most | 0o700)


def is_more_open(folder: os.stat_result, source: os.stat_result) -> bool:
    """Whether someone may enter or list a folder who may not do so with the source, by its mode."""
    mode, allowed = folder.st_mode & 0o077, source.st_mode & 0o077
    if folder.st_gid != source.st_gid:
        everyone = allowed >> 3 & allowed & 0o007
        allowed = everyone << 3 | everyone
    return bool(mode & ~allowed)


def _copy_acls(source_fd: int, target_fd: int) -> bool:
    """Whether the folder has the ACLs of the source now, or none as the source."""
    wanted = _acls(source_fd)
    for name in _acls(target_fd).keys() - wanted.keys():
        os.removexattr(target_fd, name)
    return all(_set(target_fd, name, value) for name, value in wanted.items())


def _acls(fd: int) -> dict[str, bytes]:
    try:
        return {name: os.getxattr(fd, name) for name in os.listxattr(fd) if name in _FOLDER_ACLS}
    except OSError as error:
        if error.errno in _ABSENT:
            return {}
        raise


def _copy_extended(source_fd: int, target_fd: int) -> list[str]:
    """Copy access ACL and `user.*`, remove others; returns the names of those that were denied."""
    wanted = set(_names(source_fd))
    for name in set(_names(target_fd)) - wanted:
        os.removexattr(target_fd, name)
    return [
        f"attribute {name}"
        for name in sorted(wanted)
        if not _set(target_fd, name, os.getxattr(source_fd, name))
    ]


def _names(fd: int) -> list[str]:
    try:
        return [name for name in os.listxattr(fd) if name == _ACL or name.startswith("user.")]
    except OSError as error:
        if error.errno in _ABSENT:
            return []
        raise


def _set(fd: int, name: str, value: bytes) -> bool:
    try:
        os.setxattr(fd, name, value)
    except OSError as error:
        if error.errno not in _DENIED:
            raise
        return False
    return True


def _copy_owner(source: os.stat_result, target_fd: int) -> list[str]:
    """Set group, user, then the full mode again: a change of owner clears the setuid bits."""
    before = os.fstat(target_fd)
    if source.st_gid != before.st_gid:
        _try_chown(target_fd, -1, source.st_gid)
    if source.st_uid != before.st_uid:
        _try_chown(target_fd, source.st_uid, -1)
    target = os.fstat(target_fd)
    denied = ["user"] if source.st_uid != target.st_uid else []
    denied += ["group"] if source.st_gid != target.st_gid else []
    # Set-id bits belong to the original's owner: no other user's file may have them.
    _try_chmod(target_fd, stat.S_IMODE(source.st_mode) & (0o777 if denied else 0o7777))
    if not denied and stat.S_IMODE(os.fstat(target_fd).st_mode) != stat.S_IMODE(source.st_mode):
        denied.append("mode")
    return denied


def _try_chmod(fd: int, mode: int) -> None:
    if stat.S_IMODE(os.fstat(fd).st_mode) != mode:
        with contextlib.suppress(PermissionError):
            os.fchmod(fd, mode)


def _try_chown(fd: int, user: int, group: int) -> None:
    try:
        os.fchown(fd, user, group)
    except OSError as error:
        if error.errno not in (*_DENIED, errno.EINVAL):  # EINVAL: an id that this mount cannot map
            raise
