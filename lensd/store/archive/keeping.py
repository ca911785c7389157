"""Puts originals into the archive. No original in it is overwritten: an older one moves aside."""

from __future__ import annotations

import contextlib
import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

from lensd.errors import Reason, Skipped
from lensd.store.archive import naming
from lensd.store.archive.rescuing import Rescuer
from lensd.store.archive.root import ArchiveRoot, Place
from lensd.store.attributes import copy_attributes
from lensd.store.copy import Stop, copy_onto_free_name, link_open_file, move, require_unchanged
from lensd.store.disk_errors import disk_faults
from lensd.store.fs import fsync_folder, identity_at, open_regular
from lensd.store.hashing import sha256_of
from lensd.store.identity import Identity
from lensd.store.paths import VERSIONS

Method = Literal["link", "reflink", "copy"]


@dataclass(frozen=True, slots=True)
class Archived:
    """Where an original is. A link shares its inode with the file in the watched folder."""

    method: Method
    path: str


@dataclass(frozen=True, slots=True)
class Aside:
    """An older original that left its name for a newer one, and where it is now."""

    sha256: str
    path: str


class Keeper:
    """`relative` is a path in the watched folder `watch`."""

    def __init__(self, root: ArchiveRoot, rescuer: Rescuer) -> None:
        self._root = root
        self._rescuer = rescuer

    def keep(
        self,
        source_fd: int,
        identity: Identity,
        sha256: str,
        watch: str,
        relative: str,
        *,
        may_link: bool,
        stop: Stop | None = None,
    ) -> Archived:
        """Archive the open original under its name, durable and verified.

        `may_link` only under a read lease: a program with the file open would write to the archive.
        Raises Skipped(`changed` | `vanished`), Failed(`no_space` | `io_error`), Interrupted, and
        DiskUnavailable if the path of the archive does not lead to its open root any more.
        """
        inside = naming.inside(watch, relative)
        require_unchanged(source_fd, identity)
        with disk_faults(source_fd):
            os.fsync(source_fd)  # the program that wrote it may not have called it
        with self._root.hold():
            self._root.require_there()
            with self._root.make_place(inside) as place, disk_faults(self._root.path):
                method = _adopt(place, source_fd, sha256, may_link=may_link, stop=stop)
                if method is None:
                    self.move_aside(place, watch, relative, stop)
                    method = _link_or_copy(
                        place, source_fd, identity, sha256, may_link=may_link, stop=stop
                    )
                fsync_folder(place.folder_fd)
            self._root.require_there()
        return Archived(method, place.path)

    def copy_for(self, source_fd: int, sha256: str, watch: str, relative: str) -> str:
        """Copy and verify an open original for another file; returns the path of the copy.

        If another original has that file's name, the copy gets the place of an older one. Raises
        Skipped(`changed`), Failed(`no_space` | `io_error`).
        """
        identity = Identity.of(os.fstat(source_fd))
        with self._root.make_place(naming.inside(watch, relative)) as place:
            with contextlib.suppress(FileExistsError):
                copy_onto_free_name(source_fd, identity, sha256, place.folder_fd, place.name)
                return place.path
            with self._make_older_place(place, sha256) as older:
                if identity_at(older.folder_fd, older.name) is not None:
                    self._rescuer.move(older.folder_fd, older.name, watch, relative)  # damaged
                copy_onto_free_name(source_fd, identity, sha256, older.folder_fd, older.name)
                return older.path

    def move_aside(
        self, place: Place, watch: str, relative: str, stop: Stop | None = None
    ) -> Aside | None:
        """Move an older original that has the name to the folder of its hash."""
        if identity_at(place.folder_fd, place.name) is None:
            return None
        sha256 = _hash(place, stop)
        with self._make_older_place(place, sha256) as older:
            if identity_at(older.folder_fd, older.name) is not None:
                if _hash(older, stop) == sha256:  # `.versions` has a verified copy
                    os.unlink(place.name, dir_fd=place.folder_fd)
                    return Aside(sha256, older.path)
                self._rescuer.move(older.folder_fd, older.name, watch, relative)  # damaged
            move(place.folder_fd, place.name, older.folder_fd, older.name)
        return Aside(sha256, older.path)

    def _make_older_place(self, place: Place, sha256: str) -> AbstractContextManager[Place]:
        """Where an original with this hash belongs that has not the name `place`."""
        inside = f"{VERSIONS}/{sha256}/{self._root.relative(place.path)}"  # as the ledger expects
        return self._root.make_place(inside, as_written=True)


def _hash(place: Place, stop: Stop | None) -> str:
    fd = open_regular(place.folder_fd, place.name)
    try:
        return sha256_of(fd, drop_cache=True, stop=stop)
    finally:
        os.close(fd)


def _link_or_copy(
    place: Place,
    source_fd: int,
    identity: Identity,
    sha256: str,
    *,
    may_link: bool,
    stop: Stop | None,
) -> Method:
    if may_link and link_open_file(source_fd, place.folder_fd, place.name):
        return "link"
    return copy_onto_free_name(source_fd, identity, sha256, place.folder_fd, place.name, stop=stop)


def _adopt(
    place: Place, source_fd: int, sha256: str, *, may_link: bool, stop: Stop | None
) -> Method | None:
    """Use what an earlier attempt archived under the name, if it is this original."""
    there = identity_at(place.folder_fd, place.name)
    if there is None:
        return None
    source = os.fstat(source_fd)
    if there.same_inode(Identity.of(source)):
        if may_link:
            return "link"
        if source.st_nlink < 2:
            raise Skipped(Reason.VANISHED, "the file was deleted meanwhile; the archive has it")
        # a program that writes to the file would write to the archive
        os.unlink(place.name, dir_fd=place.folder_fd)
        return None
    fd = open_regular(place.folder_fd, place.name)
    try:
        if sha256_of(fd, drop_cache=True, stop=stop) != sha256:
            return None
        with contextlib.suppress(Skipped):
            copy_attributes(source_fd, fd, preserve_mtime=True)  # those of its latest version
        os.fsync(fd)
    finally:
        os.close(fd)
    return "copy"
