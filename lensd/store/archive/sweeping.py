"""Unlinks the incomplete copies that a killed lensd left in the archive.

A temporary in the archive is a copy of a file that is still where it was. Only in `rescued/` an
older lensd may have kept other bytes under the name of a temporary: there the name must say that
it is a copy.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable

from lensd.errors import Skipped
from lensd.store.archive import naming
from lensd.store.archive.root import ArchiveRoot
from lensd.store.fs import is_copy, is_temporary


class Sweeper:
    """Each method returns how many copies it unlinked."""

    def __init__(self, root: ArchiveRoot) -> None:
        self._root = root

    def sweep(self) -> int:
        """All of the archive."""
        return self._sweep_below(".") + self.sweep_rescued()

    def sweep_rescued(self) -> int:
        """The folder of rescued files."""
        return self._sweep_below(naming.RESCUED)

    def sweep_beside(self, watch: str, relative: str) -> int:
        """The folder of one file's original."""
        try:
            with self._root.find_place(naming.inside(watch, relative)) as place:
                return _sweep(place.folder_fd, os.listdir(place.folder_fd))
        except (FileNotFoundError, Skipped):
            return 0

    def _sweep_below(self, folder: str) -> int:
        """Enters no watched folder that is mounted below the archive."""
        count = 0
        is_rescued = folder == naming.RESCUED
        avoided = set(_inodes(self._root.watched.values()))
        with self._root.hold() as root_fd, contextlib.suppress(FileNotFoundError):
            for at, folders, names, fd in os.fwalk(folder, dir_fd=root_fd):
                if at == ".":
                    folders[:] = [name for name in folders if name != naming.RESCUED]
                found = os.fstat(fd)
                if (found.st_dev, found.st_ino) in avoided:
                    folders.clear()
                else:
                    count += _sweep(fd, filter(is_copy, names) if is_rescued else names)
        return count


def _inodes(paths: Iterable[str]) -> Iterable[tuple[int, int]]:
    for path in paths:
        try:
            found = os.stat(path)
        except OSError:
            continue
        yield found.st_dev, found.st_ino


def _sweep(folder_fd: int, names: Iterable[str]) -> int:
    count = 0
    for name in filter(is_temporary, names):
        with contextlib.suppress(OSError):  # on a read-only disk; a later start unlinks it
            os.unlink(name, dir_fd=folder_fd)
            count += 1
    return count
