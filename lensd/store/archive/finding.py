"""Finds originals in the archive. Changes nothing."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from operator import attrgetter
from typing import NamedTuple

from lensd.errors import Skipped
from lensd.store.archive import naming
from lensd.store.archive.root import ArchiveRoot
from lensd.store.copy import Stop
from lensd.store.fs import enter_folder, identity_at, open_regular
from lensd.store.hashing import sha256_of
from lensd.store.paths import VERSIONS

_SHA256 = re.compile(r"[0-9a-f]{64}")


class Found(NamedTuple):
    """An original, and its stat."""

    path: str
    stat: os.stat_result


class Originals:
    """`relative` is a path in the watched folder `watch`; a path is one in the archive."""

    def __init__(self, root: ArchiveRoot) -> None:
        self._root = root

    def find(self, watch: str, relative: str) -> str | None:
        """The path of the newest original, None if there is none."""
        return self._root.find(naming.inside(watch, relative))

    def find_older(self, sha256: str, watch: str, relative: str) -> str | None:
        """The path of an older original that was moved aside, None if there is none."""
        return self._root.find(naming.older(sha256, watch, relative))

    @contextmanager
    def open_mirror(self, watch: str, folder: str) -> Iterator[Mirror]:
        """The archive's folder of one watched folder ("" or ending in "/"), to find many originals.

        Raises DiskUnavailable if the archive is not there.
        """
        with self._root.hold(), ExitStack() as opened:
            try:
                inside = f"{watch}/{folder}".rstrip("/")
                place = opened.enter_context(self._root.find_place(inside))
                fd = enter_folder(place.folder_fd, place.name)
                opened.callback(os.close, fd)
            except (FileNotFoundError, Skipped):
                yield Mirror(self, watch, folder)
            else:
                yield Mirror(self, watch, folder, fd, place.path)

    @property
    def folds_case(self) -> bool:
        """Whether the archive's disk takes names for equal that differ in case only."""
        with self._root.hold() as root_fd:
            return self._root.names.folds(root_fd)

    def is_ambiguous(self, watch: str, relative: str, sha256: str) -> bool:
        """Whether the name may be that of another original, and this one was moved aside."""
        return self.folds_case and self.find_older(sha256, watch, relative) is not None

    def versions(self, watch: str, relative: str) -> list[tuple[str, str]]:
        """(sha256, path) of the older originals; the last one that was moved aside comes first."""
        found = []
        with self._root.hold():
            for sha256 in self.version_hashes():
                path = self._root.find(naming.older(sha256, watch, relative), exactly=True)
                if path is not None:
                    found.append((os.lstat(path).st_ctime_ns, sha256, path))
        return [(sha256, path) for _, sha256, path in sorted(found, reverse=True)]

    def version_hashes(self) -> list[str]:
        """The hashes of all older originals."""
        with self._root.hold() as root_fd:
            try:
                names = os.listdir(f"/proc/self/fd/{root_fd}/{VERSIONS}")
            except FileNotFoundError:
                return []
        return [name for name in names if _SHA256.fullmatch(name)]

    def locate(
        self, watch: str, relative: str, sha256: str, stop: Stop | None = None
    ) -> str | None:
        """The path of the original with this hash, which it verifies; None if there is none."""
        with self._root.hold():
            older = self.find_older(sha256, watch, relative)
            for path in filter(None, (older, self.find(watch, relative))):
                if self._hash(path, stop) == sha256:
                    return path
        return None

    def _hash(self, path: str, stop: Stop | None = None) -> str:
        fd = self.open(path)
        try:
            return sha256_of(fd, stop=stop)
        finally:
            os.close(fd)

    def search(self, sha256: str, size: int) -> str | None:
        """The path of an original with this hash, of whichever file; reads all of this size."""
        with self._root.hold():
            for folders in ((VERSIONS, sha256), ()):
                for path, inside in self.listed(*folders):
                    if inside.startswith(f"{naming.RESCUED}/") or os.lstat(path).st_size != size:
                        continue
                    if self._hash(path) == sha256:
                        return path
        return None

    def open(self, path: str) -> int:
        """A read descriptor of an original.

        Raises FileNotFoundError, Skipped(`symlink` | `not_regular`), and StorageError for a path
        that is not in this archive.
        """
        with self._root.open_folder_of(path) as (folder_fd, name):
            return open_regular(folder_fd, name)

    def has(self, path: str) -> bool:
        """Whether a path in this archive has a file. Raises StorageError for any other path."""
        try:
            with self._root.open_folder_of(path) as (folder_fd, name):
                return identity_at(folder_fd, name) is not None
        except (FileNotFoundError, Skipped):
            return False

    def listed(self, *folders: str) -> Iterator[tuple[str, str]]:
        """(path, path below the folder as in the watched folder) of all files below a folder."""
        top = "/".join([self._root.path, *filter(None, folders)])
        for path, inside in _list_files(top, ""):
            yield path, naming.decode(inside)


class Mirror:
    """The archive's folder of one watched folder, which is open; finds the originals of its files.

    One stat a name, where the disk takes all names and does not fold case.
    """

    def __init__(
        self, originals: Originals, watch: str, folder: str, fd: int | None = None, path: str = ""
    ) -> None:
        """Without `fd` the archive has no such folder."""
        self.folds_case = originals.folds_case
        self._originals = originals
        self._watch = watch
        self._folder = folder
        self._fd = fd
        self._path = path

    def find(self, name: str) -> Found | None:
        """The newest original of the file with this name, None if there is none."""
        if self.folds_case or naming.may_be_refused(name):
            return _found_at(self._originals.find(self._watch, f"{self._folder}{name}"))
        if self._fd is None:
            return None
        try:
            found = os.stat(name, dir_fd=self._fd, follow_symlinks=False)
        except FileNotFoundError:
            return None
        return Found(f"{self._path}/{name}", found) if stat.S_ISREG(found.st_mode) else None

    def find_older(self, name: str, sha256: str) -> Found | None:
        """An original of the file that was moved aside, None if there is none."""
        return _found_at(self._originals.find_older(sha256, self._watch, f"{self._folder}{name}"))

    def verify(self, name: str, sha256: str) -> Found | None:
        """The newest original, if it has this hash."""
        return _found_at(self._originals.locate(self._watch, f"{self._folder}{name}", sha256))


def _found_at(path: str | None) -> Found | None:
    return None if path is None else Found(path, os.lstat(path))


def _list_files(top: str, inside: str) -> Iterator[tuple[str, str]]:
    """(path, path below `top`) of the regular files below a folder, if there is one."""
    try:
        with os.scandir(f"{top}/{inside}") as found:
            entries = sorted(found, key=attrgetter("name"))
    except OSError:
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _list_files(top, f"{inside}{entry.name}/")
        elif entry.is_file(follow_symlinks=False):
            yield f"{top}/{inside}{entry.name}", f"{inside}{entry.name}"
