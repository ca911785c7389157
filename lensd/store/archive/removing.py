"""Removes originals, and second names of originals, from the archive."""

from __future__ import annotations

import contextlib
import os

from lensd.store.archive.finding import Originals
from lensd.store.archive.root import ArchiveRoot
from lensd.store.disk_errors import disk_faults
from lensd.store.fs import fsync_folder, open_regular
from lensd.store.identity import Identity


class Remover:
    """Folders that it leaves empty are removed too, but not those of the watched folders."""

    def __init__(self, root: ArchiveRoot, originals: Originals) -> None:
        self._root = root
        self._originals = originals

    def remove(self, path: str) -> None:
        """Unlink an original durably.

        Raises FileNotFoundError, Skipped(`symlink` | `not_regular`), Failed(`io_error`), and
        StorageError for a path that is not in this archive.
        """
        with self._root.open_folder_of(path) as (folder_fd, name):
            os.close(open_regular(folder_fd, name))
            with disk_faults(self._root.path):
                os.unlink(name, dir_fd=folder_fd)
                fsync_folder(folder_fd)
        self._root.drop_empty(path)

    def remove_link(self, watch: str, relative: str, original: Identity) -> bool:
        """Unlink the link that was kept of a file, durably, if the file has another name.

        The link makes the file look hard-linked, and lensd leaves hard-linked files alone. True if
        there was such a link.
        """
        with self._root.hold():
            path = self._originals.find(watch, relative)
            if path is None:
                return False
            found = os.lstat(path)
            if found.st_nlink < 2 or Identity.of(found)[1:4] != original[1:4]:
                return False
            self.remove(path)
        return True

    def remove_second_name(self, path: str) -> None:
        """Unlink one of two names of an original, durably; the last name stays."""
        with contextlib.suppress(FileNotFoundError):
            if os.lstat(path).st_nlink > 1:
                self.remove(path)
