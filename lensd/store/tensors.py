"""Tensor bytes in and out, without torch: read one tensor, stream a staged file, hash a file."""

from __future__ import annotations

import hashlib
import os
from types import TracebackType
from typing import Self

from lensd.errors import Skipped
from lensd.store.disk_errors import disk_faults, path_of
from lensd.store.fs import fsync_folder
from lensd.store.hashing import fill, sha256_of
from lensd.store.header import Header

__all__ = ["StagedWriter", "read_into", "sha256_of"]

_WRITE_BYTES = 8 * 2**20


def read_into(view: memoryview, fd: int, header: Header, name: str) -> None:
    """Fill `view`, of bytes, with tensor `name`, which has as many.

    Raises Failed(`io_error`), Skipped(`truncated`) when the file has become shorter.
    """
    if fill(view, fd, header.data_start + header.tensors[name].start) < len(view):
        raise Skipped(
            "truncated",
            f"the file became shorter while tensor {name!r} was read: lensd takes it again "
            "when it is whole",
        )


class StagedWriter:
    """A new file of mode 0600 in `folder` (a path or a descriptor), gone again unless `finish`ed.

    A context manager: leaving it by an exception, also after `finish`, removes the file. Set
    attributes through `fd` before `finish`, which makes bytes and name durable.
    Raises FileExistsError, Failed(`no_space` | `io_error`).
    """

    def __init__(self, folder: str | int, name: str) -> None:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        self._folder = os.dup(folder) if isinstance(folder, int) else os.open(folder, flags)
        self._where = path_of(self._folder)
        self.name = name
        self._digest = hashlib.sha256()
        self._size = 0
        self._finished = False
        try:
            self.fd = self._create()
        except BaseException:
            os.close(self._folder)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        try:
            if kind is not None or not self._finished:
                self._remove()
        finally:
            os.close(self.fd)
            os.close(self._folder)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append `data`."""
        with memoryview(data).cast("B") as view, disk_faults(self._where):
            for start in range(0, len(view), _WRITE_BYTES):
                self._write_all(view[start : start + _WRITE_BYTES])

    def finish(self) -> tuple[str, int]:
        """Make the file and its name durable; returns its sha256 (hex) and its size in bytes."""
        with disk_faults(self._where):
            os.fsync(self.fd)
            fsync_folder(self._folder)
        self._finished = True
        return self._digest.hexdigest(), self._size

    def _create(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with disk_faults(self._where):
            return os.open(self.name, flags, 0o600, dir_fd=self._folder)

    def _write_all(self, view: memoryview) -> None:
        self._digest.update(view)
        while view:
            written = os.write(self.fd, view)
            self._size += written
            view = view[written:]

    def _remove(self) -> None:
        """Unlink the name, but only while it is still this file's."""
        try:
            found = os.stat(self.name, dir_fd=self._folder, follow_symlinks=False)
            if os.path.samestat(found, os.fstat(self.fd)):
                os.unlink(self.name, dir_fd=self._folder)
                fsync_folder(self._folder)
        except OSError:
            return  # gone or unreachable; the error under way says more
