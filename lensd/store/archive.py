"""The archive: `<watch>/<relative>` is the newest original, `.versions/<sha256>/` has older ones.

lensd overwrites nothing in it, and enters no link below its root.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from lensd.errors import Skipped, StorageError
from lensd.store.attributes import copy_attributes
from lensd.store.copy import Stop, copy_onto_free_name, link_open_file, move, require_unchanged
from lensd.store.disk_errors import disk_faults
from lensd.store.fs import (
    fsync_folder,
    identity_at,
    is_temporary,
    make_folders,
    new_token,
    open_folder,
    open_regular,
)
from lensd.store.hashing import sha256_of
from lensd.store.identity import Identity
from lensd.store.paths import VERSIONS

RESCUED = "rescued"
_SHA256 = re.compile(r"[0-9a-f]{64}")

Method = Literal["link", "reflink", "copy"]


@dataclass(frozen=True, slots=True)
class Archived:
    """Where an original is. A link shares its inode with the file in the watched folder."""

    method: Method
    path: str


class Archive:
    """The archive below `root`, which must exist. `relative`: a path in the watched folder."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._lock = threading.Lock()
        self._placing = 0  # calls that may need an empty folder just now: it must stay

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
        Raises Skipped(`changed` | `vanished`), Failed(`no_space` | `io_error`), Interrupted.
        """
        inside = _inside(watch, relative)
        require_unchanged(source_fd, identity)
        with disk_faults(source_fd):
            os.fsync(source_fd)  # the program that wrote it may not have called it
        with self._open_parent(inside) as (folder_fd, name), disk_faults(self.root):
            method = _adopt(folder_fd, name, source_fd, sha256, may_link=may_link, stop=stop)
            if method is None:
                self._move_aside(folder_fd, name, watch, relative, stop)
                if may_link and link_open_file(source_fd, folder_fd, name):
                    method = "link"
                else:
                    method = copy_onto_free_name(
                        source_fd, identity, sha256, folder_fd, name, stop=stop
                    )
            fsync_folder(folder_fd)
        return Archived(method, f"{self.root}/{inside}")

    def find(self, watch: str, relative: str) -> str | None:
        """The path of the newest original, None if there is none."""
        return self._found(_inside(watch, relative))

    def versions(self, watch: str, relative: str) -> list[tuple[str, str]]:
        """(sha256, path) of the older originals; the last one that was moved aside comes first."""
        self._require_root()
        found = []
        for sha256 in self.version_hashes():
            path = self._found(f"{VERSIONS}/{sha256}/{_inside(watch, relative)}")
            if path is not None:
                found.append((os.lstat(path).st_ctime_ns, sha256, path))
        return [(sha256, path) for _, sha256, path in sorted(found, reverse=True)]

    def locate(
        self, watch: str, relative: str, sha256: str, stop: Stop | None = None
    ) -> str | None:
        """The path of the original with this hash, which it verifies; None if there is none."""
        older = dict(self.versions(watch, relative)).get(sha256)
        for path in filter(None, (older, self.find(watch, relative))):
            fd = self.open_original(path)
            try:
                if sha256_of(fd, stop=stop) == sha256:
                    return path
            finally:
                os.close(fd)
        return None

    def open_original(self, path: str) -> int:
        """A read descriptor of a path in this archive.

        Raises FileNotFoundError, Skipped(`symlink` | `not_regular`), and StorageError for a path
        that is not in this archive.
        """
        folder, name = os.path.split(self._relative(path))
        folder_fd = open_folder(self.root, folder)
        try:
            return open_regular(folder_fd, name)
        finally:
            os.close(folder_fd)

    def rescue(self, folder_fd: int, name: str, watch: str, relative: str) -> str:
        """Move bytes of unknown origin to `rescued/<time>-<token>/`; returns their new path.

        Across filesystems it copies, verifies, and only then unlinks. Raises Skipped(`changed`) if
        another program writes to the file, which then stays where it is.
        """
        inside = _rescued(watch, relative)
        with self._open_parent(inside) as (target_fd, target), disk_faults(self.root):
            move(folder_fd, name, target_fd, target)
        return f"{self.root}/{inside}"

    def rescue_copy(
        self, folder_fd: int, name: str, identity: Identity, watch: str, relative: str
    ) -> str:
        """As `rescue`, by a verified copy: the file keeps its name.

        Raises Skipped(`changed`) if the file is not `identity`, Failed(`no_space` | `io_error`).
        """
        inside = _rescued(watch, relative)
        fd = open_regular(folder_fd, name)
        try:
            require_unchanged(fd, identity)
            with self._open_parent(inside) as (target_fd, target), disk_faults(self.root):
                copy_onto_free_name(fd, identity, sha256_of(fd), target_fd, target)
        finally:
            os.close(fd)
        return f"{self.root}/{inside}"

    def has(self, path: str) -> bool:
        """Whether a path in this archive has a file. Raises StorageError for any other path."""
        return self._found(self._relative(path)) is not None

    def remove(self, path: str) -> None:
        """Unlink an original durably, and folders that it leaves empty, but not the watch's own.

        Raises FileNotFoundError, Skipped(`symlink` | `not_regular`), Failed(`io_error`), and
        StorageError for a path that is not in this archive.
        """
        self._require_root()
        self._unlink(self._relative(path))

    def remove_link(self, watch: str, relative: str, original: Identity) -> bool:
        """Unlink the link that `keep` made, durably, if the file has another name.

        The link makes the file look hard-linked, and lensd leaves hard-linked files alone. True if
        there was such a link.
        """
        path = self.find(watch, relative)
        if path is None:
            return False
        found = os.lstat(path)
        if found.st_nlink < 2 or Identity.of(found)[1:4] != original[1:4]:
            return False
        self._unlink(self._relative(path))
        return True

    def add_name(self, path: str, watch: str, relative: str) -> tuple[str, str | None]:
        """Give an original a second name, that of the new path of its file.

        Renames it if the filesystem has no hard links. Returns its new path, and the sha256 of the
        original that had this name and is now in `.versions`. Raises FileNotFoundError, FileError,
        StorageError.
        """
        inside = _inside(watch, relative)
        folder, name = os.path.split(path)
        fd = self.open_original(path)
        from_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with self._open_parent(inside) as (folder_fd, target), disk_faults(self.root):
                there = identity_at(folder_fd, target)
                displaced = None
                if there is None or not there.same_inode(Identity.of(os.fstat(fd))):
                    if there is not None:
                        displaced = _hash(folder_fd, target, None)
                        self._move_aside(folder_fd, target, watch, relative, None)
                    if not link_open_file(fd, folder_fd, target):
                        move(from_fd, name, folder_fd, target)
                    fsync_folder(folder_fd)
        finally:
            os.close(from_fd)
            os.close(fd)
        return f"{self.root}/{inside}", displaced

    def drop_name(self, path: str) -> None:
        """Remove one of two names of an original, durably; the last name stays."""
        with contextlib.suppress(FileNotFoundError):
            if os.lstat(path).st_nlink > 1:
                self._unlink(self._relative(path))

    def path_for(self, watch: str, relative: str) -> str:
        """The path that the newest original of a file has."""
        return f"{self.root}/{_inside(watch, relative)}"

    def version_path(self, sha256: str, watch: str, relative: str) -> str:
        """The path that an older original of a file has."""
        return f"{self.root}/{VERSIONS}/{sha256}/{_inside(watch, relative)}"

    def sweep(self) -> int:
        """Unlink all incomplete copies that a killed lensd left in the archive; returns how many.

        A temporary in the archive is always a copy of a file that is still where it was.
        """
        return self._sweep_below(self.root)

    def sweep_rescued(self) -> int:
        """As `sweep`, in the folder of rescued files."""
        folder = os.path.join(self.root, RESCUED)
        return self._sweep_below(folder) if os.path.isdir(folder) else 0

    def sweep_beside(self, watch: str, relative: str) -> int:
        """As `sweep`, in the folder of one file's original."""
        try:
            folder_fd = open_folder(self.root, os.path.dirname(_inside(watch, relative)))
        except (FileNotFoundError, Skipped):
            return 0
        try:
            return _sweep(folder_fd, os.listdir(folder_fd))
        finally:
            os.close(folder_fd)

    def _sweep_below(self, folder: str) -> int:
        return sum(_sweep(fd, names) for _, _, names, fd in os.fwalk(folder))

    def _move_aside(
        self, folder_fd: int, name: str, watch: str, relative: str, stop: Stop | None
    ) -> None:
        """Move an older original that has the name to the folder of its hash."""
        if identity_at(folder_fd, name) is None:
            return
        sha256 = _hash(folder_fd, name, stop)
        inside = f"{VERSIONS}/{sha256}/{_inside(watch, relative)}"
        with self._open_parent(inside) as (versions_fd, target):
            if identity_at(versions_fd, target) is not None:
                if _hash(versions_fd, target, stop) == sha256:
                    os.unlink(name, dir_fd=folder_fd)  # `.versions` has a verified copy
                    return
                self.rescue(versions_fd, target, watch, relative)  # damaged
            move(folder_fd, name, versions_fd, target)

    def _unlink(self, inside: str) -> None:
        folder, name = os.path.split(inside)
        folder_fd = open_folder(self.root, folder)
        try:
            os.close(open_regular(folder_fd, name))
            with disk_faults(self.root):
                os.unlink(name, dir_fd=folder_fd)
                fsync_folder(folder_fd)
        finally:
            os.close(folder_fd)
        self._drop_empty(folder)

    def _relative(self, path: str) -> str:
        """A path in this archive, relative to its root. Raises StorageError for any other."""
        inside = path.removeprefix(f"{self.root}/")
        parts = inside.split("/")
        if inside == path or len(parts) < 2 or not {"", ".", ".."}.isdisjoint(parts):
            raise StorageError(
                f"{path} is not an original in the archive {self.root}. If the archive has moved, "
                "correct archive.path; otherwise handle the file by hand"
            )
        return inside

    def _drop_empty(self, folder: str) -> None:
        """Remove an empty folder and those above it, below the archive's first level."""
        while "/" in folder:
            above, name = os.path.split(folder)
            with self._lock:
                if self._placing or not self._rmdir(above, name):
                    return
            folder = above

    def _rmdir(self, above: str, name: str) -> bool:
        try:
            above_fd = open_folder(self.root, above)
            try:
                os.rmdir(name, dir_fd=above_fd)
                fsync_folder(above_fd)
            finally:
                os.close(above_fd)
        except (OSError, Skipped):  # mostly because it is not empty; an empty folder does no harm
            return False
        return True

    def _found(self, inside: str) -> str | None:
        self._require_root()
        folder, name = os.path.split(inside)
        try:
            folder_fd = open_folder(self.root, folder)
        except (FileNotFoundError, Skipped):
            return None
        try:
            found = os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
        except FileNotFoundError:
            return None
        finally:
            os.close(folder_fd)
        return f"{self.root}/{inside}" if stat.S_ISREG(found.st_mode) else None

    def version_hashes(self) -> list[str]:
        """The hashes of all older originals."""
        try:
            names = os.listdir(f"{self.root}/{VERSIONS}")
        except FileNotFoundError:
            return []
        return [name for name in names if _SHA256.fullmatch(name)]

    @contextlib.contextmanager
    def _open_parent(self, inside: str) -> Iterator[tuple[int, str]]:
        """The folder of a path below the root, created if missing, and the name in it."""
        self._require_root()
        folder, name = os.path.split(inside)
        with self._lock:
            self._placing += 1
        try:
            folder_fd = make_folders(self.root, folder)
            try:
                yield folder_fd, name
            finally:
                os.close(folder_fd)
        finally:
            with self._lock:
                self._placing -= 1

    def _require_root(self) -> None:
        if not os.path.isdir(self.root):
            raise StorageError(
                f"the archive {self.root} does not exist: mount its disk or correct archive.path"
            )


def _inside(watch: str, relative: str) -> str:
    if watch in ("", ".", "..", VERSIONS, RESCUED) or "/" in watch:
        raise ValueError(f"{watch!r} cannot be the name of a folder in the archive")
    if os.path.basename(relative) in ("", ".", ".."):
        raise ValueError(f"{relative!r} is not the path of a file")
    return f"{watch}/{relative}"


def _rescued(watch: str, relative: str) -> str:
    """A new path for bytes of unknown origin, in a folder of its own."""
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    return f"{RESCUED}/{moment}-{new_token()}/{_inside(watch, relative)}"


def _sweep(folder_fd: int, names: list[str]) -> int:
    incomplete = [name for name in names if is_temporary(name)]
    for name in incomplete:
        os.unlink(name, dir_fd=folder_fd)
    return len(incomplete)


def _hash(folder_fd: int, name: str, stop: Stop | None) -> str:
    fd = open_regular(folder_fd, name)
    try:
        return sha256_of(fd, drop_cache=True, stop=stop)
    finally:
        os.close(fd)


def _adopt(
    folder_fd: int, name: str, source_fd: int, sha256: str, *, may_link: bool, stop: Stop | None
) -> Method | None:
    """Use what an earlier attempt archived under the name, if it is this original."""
    there = identity_at(folder_fd, name)
    if there is None:
        return None
    source = os.fstat(source_fd)
    if there.same_inode(Identity.of(source)):
        if may_link:
            return "link"
        if source.st_nlink < 2:
            raise Skipped("vanished", "the file was deleted meanwhile; the archive has it")
        os.unlink(
            name, dir_fd=folder_fd
        )  # a program that writes to the file would write to the archive
        return None
    fd = open_regular(folder_fd, name)
    try:
        if sha256_of(fd, drop_cache=True, stop=stop) != sha256:
            return None
        with contextlib.suppress(Skipped):
            copy_attributes(source_fd, fd, preserve_mtime=True)  # those of its latest version
        os.fsync(fd)
    finally:
        os.close(fd)
    return "copy"
