"""Keeps bytes of unknown origin: `rescued/<time>-<token>/<watch>/<relative>`."""

from __future__ import annotations

import os

from lensd.store.archive import naming
from lensd.store.archive.root import ArchiveRoot
from lensd.store.copy import copy_onto_free_name, move, require_unchanged
from lensd.store.disk_errors import disk_faults
from lensd.store.fs import open_regular
from lensd.store.hashing import sha256_of
from lensd.store.identity import Identity


class Rescuer:
    """`relative` is the path in the watched folder `watch` that the bytes belong to."""

    def __init__(self, root: ArchiveRoot) -> None:
        self._root = root

    def move(self, folder_fd: int, name: str, watch: str, relative: str) -> str:
        """Move a file to the archive; returns its new path.

        Across filesystems it copies, verifies, and only then unlinks. Raises Skipped(`changed`) if
        another program writes to the file, which then stays where it is.
        """
        inside = naming.rescued(watch, relative)
        with self._root.make_place(inside) as place, disk_faults(self._root.path):
            move(folder_fd, name, place.folder_fd, place.name)
        return place.path

    def copy(self, folder_fd: int, name: str, identity: Identity, watch: str, relative: str) -> str:
        """As `move`, by a verified copy: the file keeps its name.

        Raises Skipped(`changed`) if the file is not `identity`, Failed(`no_space` | `io_error`).
        """
        inside = naming.rescued(watch, relative)
        fd = open_regular(folder_fd, name)
        try:
            require_unchanged(fd, identity)
            with self._root.make_place(inside) as place, disk_faults(self._root.path):
                copy_onto_free_name(fd, identity, sha256_of(fd), place.folder_fd, place.name)
        finally:
            os.close(fd)
        return place.path
