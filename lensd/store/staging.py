"""A new file under a temporary name, which gets its real name only when it is whole."""

from __future__ import annotations

import hashlib
import os
from typing import Self

from lensd.store.disk_errors import disk_faults, path_of
from lensd.store.fs import fsync_folder, new_token, temporary_name
from lensd.store.rename import move_onto_free_name

_WRITE_BYTES = 8 * 2**20
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

Inode = tuple[int, int]  # device and inode


class Temporary:
    """A new empty file in `folder` (a path or a descriptor), `.lensd-<token>.tmp` by default.

    A context manager: at its end the file is removed, unless it has another name by then. Set
    attributes through `fd` before `sync`. Raises FileExistsError, Failed(`no_space` | `io_error`).
    """

    def __init__(self, folder: str | int, name: str | None = None, *, mode: int = 0o600) -> None:
        self.name = temporary_name(new_token()) if name is None else name
        self._folder_fd = os.dup(folder) if isinstance(folder, int) else os.open(folder, _FOLDER)
        self._where = path_of(self._folder_fd)
        self._digest = hashlib.sha256()
        self._size = 0
        try:
            with disk_faults(self._where):
                self.fd = create(self._folder_fd, self.name, mode=mode)
        except BaseException:
            os.close(self._folder_fd)
            raise
        self.inode = inode_of(self.fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            remove(self._folder_fd, self.name, self.inode)
        except OSError:
            return  # the folder cannot be reached; the error under way says more
        finally:
            os.close(self.fd)
            os.close(self._folder_fd)

    @property
    def path(self) -> str:
        return os.path.join(self._where, self.name)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append `data`."""
        with memoryview(data).cast("B") as view, disk_faults(self._where):
            for start in range(0, len(view), _WRITE_BYTES):
                self._write_all(view[start : start + _WRITE_BYTES])

    def sync(self) -> tuple[str, int]:
        """Make bytes and name durable; returns sha256 (hex) and count of the bytes written."""
        with disk_faults(self._where):
            os.fsync(self.fd)
            fsync_folder(self._folder_fd)
        return self._digest.hexdigest(), self._size

    def rename(self, name: str, *, overwrite: bool = False) -> None:
        """Give the file a free name in its folder, durably; with `overwrite` any name.

        Raises FileExistsError, Failed(`no_space` | `io_error`).
        """
        folder_fd = self._folder_fd
        with disk_faults(self._where):
            if overwrite:
                os.replace(self.name, name, src_dir_fd=folder_fd, dst_dir_fd=folder_fd)
            else:
                move_onto_free_name(folder_fd, self.name, folder_fd, name)
            fsync_folder(folder_fd)

    def _write_all(self, view: memoryview) -> None:
        self._digest.update(view)
        while view:
            written = os.write(self.fd, view)
            self._size += written
            view = view[written:]


def create(folder_fd: int, name: str, *, mode: int = 0o600) -> int:
    """A descriptor of a new empty file. Raises FileExistsError, OSError."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(name, flags, mode, dir_fd=folder_fd)


def inode_of(fd: int) -> Inode:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino


def remove(folder_fd: int, name: str, inode: Inode) -> None:
    """Unlink the name durably, but only while it is this file's. Raises OSError."""
    try:
        found = os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
    except FileNotFoundError:
        return
    if (found.st_dev, found.st_ino) == inode:
        os.unlink(name, dir_fd=folder_fd)
        fsync_folder(folder_fd)
