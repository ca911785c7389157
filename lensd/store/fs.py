"""Folders and names below a root; a folder that is replaced by a link is not entered."""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat

from lensd.errors import Failed, Reason, Skipped
from lensd.store.disk_errors import path_of, unreadable
from lensd.store.identity import Identity
from lensd.store.paths import is_relative

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,64}")
_COPY = "copy-"
_TEMPORARY = re.compile(r"\.lensd-[A-Za-z0-9_-]{1,64}\.tmp")


def open_folder(root: str | int, relative_folder: str) -> int:
    """A descriptor of `root/relative_folder` ("" is the root); enters no link below the root.

    `root` is a path or an open folder. Raises FileNotFoundError, Skipped(`symlink`) when a part is
    a link or no folder.
    """
    fd = os.dup(root) if isinstance(root, int) else os.open(root, _FOLDER)
    for part in _parts(relative_folder):
        fd = _enter(fd, part)
    return fd


def enter_folder(folder_fd: int, part: str) -> int:
    """A descriptor of a folder in an open folder. Raises FileNotFoundError, Skipped(`symlink`)."""
    try:
        return os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=folder_fd)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENOTDIR):
            raise
        raise Skipped(
            Reason.SYMLINK,
            f"{path_of(folder_fd)}/{part} is a link or no folder: lensd enters no links below a "
            "root; put a real folder there",
        ) from error


def fsync_folder(fd: int) -> None:
    """Make the names in an open folder durable, if the filesystem can do that."""
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network and FUSE filesystems
            raise


def identity_at(folder_fd: int, name: str) -> Identity | None:
    """The identity of what has the name now (a link itself, not its target), None without one."""
    try:
        return Identity.of(os.stat(name, dir_fd=folder_fd, follow_symlinks=False))
    except FileNotFoundError:
        return None


def open_regular(folder_fd: int, name: str) -> int:
    """A read descriptor of a regular file, never of a link or a device.

    Raises FileNotFoundError, Skipped(`symlink` | `not_regular`).
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(name, flags, dir_fd=folder_fd)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise Skipped(
                Reason.SYMLINK,
                f"{path_of(folder_fd)}/{name} is a symbolic link: put the file itself there",
            ) from error
        if error.errno == errno.ENXIO:
            raise _not_regular(folder_fd, name) from error
        raise
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    raise _not_regular(folder_fd, name)


def open_original(path: str, expected: Identity | None = None) -> int:
    """A read descriptor of the file at `path`; `expected` is the Identity that it must have.

    Raises Skipped(`vanished` | `symlink` | `not_regular` | `changed`), Failed(`unreadable` |
    `io_error`).
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise Skipped(Reason.VANISHED, "the file does not exist any more") from None
    except PermissionError:
        raise unreadable() from None
    except OSError as error:
        # The path was a regular file a moment ago, so a link there has replaced it.
        if expected is not None and error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise Skipped(Reason.VANISHED, "something else has replaced the file") from None
        if error.errno == errno.ELOOP:
            raise Skipped(
                Reason.SYMLINK, "this is a symbolic link; lensd does not follow it"
            ) from None
        raise Failed(Reason.IO_ERROR, f"the file cannot be opened: {error.strerror}") from None
    found = os.fstat(fd)
    if stat.S_ISREG(found.st_mode) and expected in (None, Identity.of(found)):
        return fd
    os.close(fd)
    if stat.S_ISREG(found.st_mode):
        raise Skipped(Reason.CHANGED, "the file changed before it was read; lensd starts over")
    raise Skipped(Reason.NOT_REGULAR, "this is not a regular file; lensd does not change it")


def temporary_name(token: str) -> str:
    """`.lensd-<token>.tmp`: hidden, short for any target, and never `.safetensors`."""
    if _TOKEN.fullmatch(token) is None:
        raise ValueError(f"not a token for a temporary name: {token!r}")
    return f".lensd-{token}.tmp"


def new_token() -> str:
    """A token that no other temporary has."""
    return secrets.token_hex(8)


def copy_name() -> str:
    """A new name for the temporary of a copy, whose source keeps its name until it is complete."""
    return temporary_name(f"{_COPY}{new_token()}")


def is_copy(name: str) -> bool:
    """Whether this is a name of `copy_name`."""
    return name.startswith(f".lensd-{_COPY}") and is_temporary(name)


def is_temporary(name: str) -> bool:
    """Whether this is a name of a temporary of lensd."""
    return _TEMPORARY.fullmatch(name) is not None


def _not_regular(folder_fd: int, name: str) -> Skipped:
    where = f"{path_of(folder_fd)}/{name}"
    return Skipped(Reason.NOT_REGULAR, f"{where} is not a regular file: move it elsewhere")


def _parts(relative: str) -> list[str]:
    if not is_relative(relative):
        raise ValueError(f"not a path below a root: {relative!r}")
    return [part for part in relative.split("/") if part not in ("", ".")]


def _enter(fd: int, part: str) -> int:
    """As enter_folder; closes the outer folder."""
    try:
        return enter_folder(fd, part)
    finally:
        os.close(fd)
