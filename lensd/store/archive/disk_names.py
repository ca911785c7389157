"""The names that files have on the archive's disk: some disks refuse names, or fold their case."""

from __future__ import annotations

import errno
import os

from lensd.store.archive import naming
from lensd.store.disk_errors import disk_faults
from lensd.store.fs import new_token, temporary_name

# Errors by which a disk says that it has no file of the name, and cannot have one.
_REFUSALS = (errno.ENOENT, errno.EINVAL, errno.EILSEQ, errno.ENAMETOOLONG, errno.ENOTDIR)


class DiskNames:
    """Finds and chooses names below one root.

    On a disk that folds case `Ink` and `ink` would be one file: the second of the two that comes is
    written encoded. Each name that is found is a path of one part, or of more: see `naming.encode`.
    """

    def __init__(self) -> None:
        self._folds: bool | None = None
        self._lowers: bool | None = None

    def folds(self, root_fd: int) -> bool:
        """Whether the disk takes names for equal that differ in case only."""
        if self._folds is None:
            self._folds = _folds_case(root_fd)
        return self._folds or False

    def find(self, root_fd: int, folder_fd: int, name: str, *, exactly: bool = False) -> str | None:
        """The name under which the disk may have a file; None if it has no such file.

        Where the disk folds case it may be another file's (compare the hash), but not `exactly`.
        """
        folds = self.folds(root_fd)
        if not folds and not naming.may_be_refused(name):
            return name
        found = _find_exactly(folder_fd, name, folds=folds)
        if found is not None or exactly or not folds:
            return found
        # An older lensd wrote it, or the disk lists names in lower case. The kernel may still know
        # a name by which lensd asked before, so the list decides.
        alike = (other.casefold() == name.casefold() for other in os.listdir(folder_fd))
        return name if any(alike) and _exists(folder_fd, name) else None

    def choose(self, root_fd: int, folder_fd: int, name: str) -> str:
        """The name that a file has, or the one that it can have. Raises Failed, OSError."""
        folds = self.folds(root_fd)
        if not folds and not naming.may_be_refused(name):
            return name
        found = _find_exactly(folder_fd, name, folds=folds)
        if found is not None:
            return found
        if naming.is_encoded(name) or (folds and self._is_taken(folder_fd, name)):
            return naming.encode(name)
        if naming.may_be_refused(name) and not _can_have(folder_fd, name):
            return naming.encode(name)
        return name

    def _is_taken(self, folder_fd: int, name: str) -> bool:
        """Whether another file has the name on a disk that folds case, or may get it."""
        if self._lowers is None:
            self._lowers = not _can_have(folder_fd, temporary_name(f"CASE-{new_token()}"))
        return (self._lowers and name != name.lower()) or _exists(folder_fd, name)


def _folds_case(root_fd: int) -> bool | None:
    """By a look at what is there; None: that shows nothing."""
    names = os.listdir(root_fd)
    for name in names:
        other = name.swapcase()
        if name.isascii() and other != name and other not in names:
            return _exists(root_fd, other)
    return None


def _find_exactly(folder_fd: int, name: str, *, folds: bool) -> str | None:
    is_there = not naming.is_encoded(name) and _exists(folder_fd, name)
    if is_there and (not folds or name in os.listdir(folder_fd)):
        return name
    written = naming.encode(name)
    return written if _exists(folder_fd, written) else None


def _exists(folder_fd: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _REFUSALS:
            raise
        return False
    return True


def _can_have(folder_fd: int, name: str) -> bool:
    """Whether a file can have the name and is then listed under it, by an empty file."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with disk_faults(folder_fd):
        try:
            os.close(os.open(name, flags, 0o600, dir_fd=folder_fd))
        except OSError as error:
            if error.errno not in _REFUSALS:
                raise
            return False
        try:
            return name in os.listdir(folder_fd)
        finally:
            os.unlink(name, dir_fd=folder_fd)
