"""Gives originals the names that mirror the new paths of their files."""

from __future__ import annotations

import os
from dataclasses import dataclass

from lensd.store.archive import naming
from lensd.store.archive.keeping import Aside, Keeper
from lensd.store.archive.root import ArchiveRoot
from lensd.store.copy import link_open_file, move
from lensd.store.disk_errors import disk_faults
from lensd.store.fs import fsync_folder, identity_at, open_regular
from lensd.store.identity import Identity


@dataclass(frozen=True, slots=True)
class Renamed:
    """The new path of an original, and the original that had this name before."""

    path: str
    displaced: Aside | None = None


class Renamer:
    """`relative` is the new path in the watched folder `watch`."""

    def __init__(self, root: ArchiveRoot, keeper: Keeper) -> None:
        self._root = root
        self._keeper = keeper

    def path_for(self, path: str, watch: str, relative: str) -> str:
        """The path that `add_name` will give to an original; makes its folders.

        Raises FileNotFoundError if there is no such original, FileError, StorageError, OSError.
        """
        with self._root.open_folder_of(path) as (folder_fd, name):
            os.close(open_regular(folder_fd, name))
            with self._root.make_place(naming.inside(watch, relative)) as place:
                return place.path

    def add_name(self, path: str, watch: str, relative: str) -> Renamed:
        """Give an original a second name, that of the new path of its file.

        Renames it if the filesystem has no hard links. Raises FileNotFoundError, FileError,
        StorageError.
        """
        with self._root.open_folder_of(path) as (from_fd, name):
            fd = open_regular(from_fd, name)
            try:
                inside = naming.inside(watch, relative)
                with self._root.make_place(inside) as place, disk_faults(self._root.path):
                    there = identity_at(place.folder_fd, place.name)
                    if there is not None and there.same_inode(Identity.of(os.fstat(fd))):
                        return Renamed(place.path)
                    displaced = self._keeper.move_aside(place, watch, relative)
                    if not link_open_file(fd, place.folder_fd, place.name):
                        move(from_fd, name, place.folder_fd, place.name)
                    fsync_folder(place.folder_fd)
            finally:
                os.close(fd)
        return Renamed(place.path, displaced)
