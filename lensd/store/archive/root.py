"""The archive's folder, open while a job or a request uses it.

Everything in the archive is reached from this one descriptor. So an original never goes to the
folder that shows where the archive's disk was unmounted, and no two steps of a job use two disks.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from lensd.errors import DegradedReason, DiskUnavailable, Skipped, StorageError
from lensd.store import own_folders
from lensd.store.archive import naming
from lensd.store.archive.disk_names import DiskNames
from lensd.store.archive.folders import Model, enter_mirrored
from lensd.store.fs import enter_folder, fsync_folder, open_folder


class Place(NamedTuple):
    """A name in an open folder of the archive, and its whole path."""

    folder_fd: int
    name: str
    path: str


class ArchiveRoot:
    """The folder `path`, which must exist. `watched`: the watched folders by their names in it."""

    def __init__(self, path: str, watched: Mapping[str, str]) -> None:
        self.path = path
        self.watched = watched
        self.names = DiskNames()
        self._lock = threading.Lock()
        self._fd = -1
        self._inode = (0, 0)  # and device
        self._users = 0
        self._placing_lock = threading.Lock()
        self._placing = 0  # calls that may need an empty folder just now: it must stay

    @contextlib.contextmanager
    def hold(self) -> Iterator[int]:
        """Its descriptor, which stays open until the last one that holds it is done.

        Raises DiskUnavailable if the folder is not there or cannot be opened.
        """
        with self._lock:
            if self._users == 0:
                self._open()
            self._users += 1
            fd = self._fd
        try:
            yield fd
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    os.close(self._fd)

    def require_there(self) -> None:
        """Raises DiskUnavailable unless the path still leads to the folder that is held open."""
        try:
            found = os.stat(self.path)
            now = found.st_dev, found.st_ino
        except OSError:
            now = None
        if now != self._inode:
            raise DiskUnavailable(
                DegradedReason.IO_ERROR,
                self.path,
                f"the archive {self.path} was unmounted or replaced while lensd used it: mount it "
                "again",
            )

    @property
    def inode(self) -> tuple[int, int]:
        """Device and inode of the folder that is held open."""
        return self._inode

    def relative(self, path: str) -> str:
        """A path in this archive, relative to its root. Raises StorageError for any other."""
        inside = path.removeprefix(f"{self.path}/")
        parts = inside.split("/")
        if inside == path or len(parts) < 2 or not {"", ".", ".."}.isdisjoint(parts):
            raise StorageError(
                f"{path} is not an original in the archive {self.path}. If the archive has moved, "
                "correct archive.path; otherwise handle the file by hand"
            )
        return inside

    @contextlib.contextmanager
    def open_folder_of(self, path: str) -> Iterator[tuple[int, str]]:
        """The folder of a path as the disk has it, and the name in it.

        Raises FileNotFoundError, Skipped(`symlink`), StorageError for a path elsewhere.
        """
        folder, name = os.path.split(self.relative(path))
        with self.hold() as root_fd:
            folder_fd = open_folder(root_fd, folder)
            try:
                yield folder_fd, name
            finally:
                os.close(folder_fd)

    def find(self, inside: str, *, exactly: bool = False) -> str | None:
        """The path of a file as the disk has it; None if there is no such file.

        On a disk that folds case it may be that of another file, but not `exactly`.
        """
        try:
            with self.find_place(inside, exactly=exactly) as place:
                found = os.stat(place.name, dir_fd=place.folder_fd, follow_symlinks=False)
        except (FileNotFoundError, Skipped):
            return None
        return place.path if stat.S_ISREG(found.st_mode) else None

    @contextlib.contextmanager
    def find_place(self, inside: str, *, exactly: bool = False) -> Iterator[Place]:
        """The folder of a path, and the name that a file may have in it.

        Raises FileNotFoundError, Skipped(`symlink`) without such a folder.
        """
        with self.hold() as root_fd, contextlib.ExitStack() as opened:
            folder_fd, there = root_fd, [self.path]
            parts = inside.split("/")
            for count, part in enumerate(parts, 1):
                found = self.names.find(root_fd, folder_fd, part, exactly=exactly)
                if found is None:
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), part)
                *folders, name = found.split("/")
                if count < len(parts):
                    folders.append(name)
                for piece in folders:
                    folder_fd = enter_folder(folder_fd, piece)
                    opened.callback(os.close, folder_fd)
                there += folders
            yield Place(folder_fd, name, "/".join([*there, name]))

    @contextlib.contextmanager
    def make_place(self, inside: str, *, as_written: bool = False) -> Iterator[Place]:
        """The folder of a path, created if missing, and the name that a file has or can have in it.

        `as_written`: the path has the names that the disk has for its parts elsewhere.
        Each folder has the rights of the watched folder that it mirrors, or fewer.
        Raises StorageError, Skipped(`symlink`), Failed(`no_space` | `io_error`).
        """
        with self.hold() as root_fd, self._keep_folders(), contextlib.ExitStack() as opened:
            folder_fd, there = root_fd, [self.path]
            parts = inside.split("/")
            for count, part in enumerate(parts, 1):
                chosen = part if as_written else self.names.choose(root_fd, folder_fd, part)
                *folders, name = chosen.split("/")
                if count < len(parts):
                    folders.append(name)
                models = self._models(parts, min(count, len(parts) - 1))
                for piece in folders:
                    folder_fd = enter_mirrored(folder_fd, piece, models)
                    opened.callback(os.close, folder_fd)
                there += folders
            yield Place(folder_fd, name, "/".join([*there, name]))

    def drop_empty(self, path: str) -> None:
        """Remove the folder of a path if it is empty, and those above it, but not the first."""
        folder = os.path.dirname(self.relative(path))
        while "/" in folder:
            above, name = os.path.split(folder)
            with self._placing_lock:
                if self._placing or not self._rmdir(above, name):
                    return
            folder = above

    def _open(self) -> None:
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            why, also = "does not exist", f", or, if you deleted it, `mkdir -p '{self.path}'`"
            if not isinstance(error, FileNotFoundError | NotADirectoryError):
                why, also = f"cannot be opened ({error.strerror})", ""
            raise DiskUnavailable(
                DegradedReason.IO_ERROR,
                self.path,
                f"the archive {self.path} {why}: mount its disk or correct archive.path{also}",
            ) from None
        found = os.fstat(fd)
        if self._inode != (found.st_dev, found.st_ino):
            self._inode = found.st_dev, found.st_ino
            self.names = DiskNames()
            own_folders.note(self.path, self._inode)
        self._fd = fd

    def _models(self, parts: list[str], count: int) -> list[Model]:
        """The folders whose rights the folder of the first `count` parts gets, the best first."""
        own = naming.own_parts(parts[0])
        if count < own:
            return [Model(self.path)]
        watch, relative = parts[own], naming.decode("/".join(parts[own + 1 : count]))
        found = [Model(self.watched[watch], relative)] if watch in self.watched else []
        return [*found, Model(self.path, f"{watch}/{relative}")] if own else found

    @contextlib.contextmanager
    def _keep_folders(self) -> Iterator[None]:
        with self._placing_lock:
            self._placing += 1
        try:
            yield
        finally:
            with self._placing_lock:
                self._placing -= 1

    def _rmdir(self, above: str, name: str) -> bool:
        try:
            with self.hold() as root_fd:
                above_fd = open_folder(root_fd, above)
                try:
                    os.rmdir(name, dir_fd=above_fd)
                    fsync_folder(above_fd)
                finally:
                    os.close(above_fd)
        except (OSError, Skipped):  # mostly because it is not empty; an empty folder does no harm
            return False
        return True
