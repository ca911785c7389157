"""Tensor bytes in and out, without torch: read one tensor, fill a staged file of known layout."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Self

from lensd.errors import Failed, Skipped
from lensd.store.disk_errors import disk_faults
from lensd.store.hashing import Hashes, fill, hashes_of, read_up_to
from lensd.store.header import Header, encode_header, tensor_bytes

TensorEntry = tuple[str, str, tuple[int, ...]]  # name, dtype, shape


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


def output_bytes(tensors: Sequence[TensorEntry], metadata: Mapping[str, str]) -> int:
    """The exact size of a file with these tensors and this metadata."""
    data = sum(tensor_bytes(dtype, shape) for _, dtype, shape in tensors)
    return len(encode_header(tensors, metadata)) + data


def open_temporary(path: str, flags: int) -> int:
    """Open a temporary that another process created; the caller must compare its inode.

    Raises Skipped(`vanished`) when it is not there: its folder was moved.
    """
    try:
        return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO):
            raise
        raise Skipped(
            "vanished",
            "the folder was moved while the file was compressed; lensd takes it where it is now",
        ) from error


class Output:
    """Fills an existing empty file, whose tensors arrive in any order, from any thread.

    The daemon creates the file, through a folder that it has checked; `inode` (device, inode)
    proves that the path still names that file.
    """

    def __init__(
        self,
        path: str,
        inode: Sequence[int],
        tensors: Sequence[TensorEntry],
        metadata: Mapping[str, str],
    ) -> None:
        self.path = path
        self._tensors = tensors
        self._header = encode_header(tensors, metadata)
        self._extents: dict[str, tuple[int, int]] = {}  # offset and size in bytes
        self._digests: dict[str, bytes] = {}
        start = len(self._header)
        for name, dtype, shape in tensors:
            self._extents[name] = (start, tensor_bytes(dtype, shape))
            start += tensor_bytes(dtype, shape)
        self.size = start
        self._fd = open_temporary(path, os.O_RDWR)
        found = os.fstat(self._fd)
        if (found.st_dev, found.st_ino, found.st_size) != (*inode, 0):
            os.close(self._fd)
            raise Failed("io_error", f"the temporary {path} is not the one lensd made; try again")
        self._write_at(0, self._header)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    @property
    def reading_path(self) -> str:
        """A path of this very file, whatever its name is (UTF-8 or not) or has become."""
        return f"/proc/self/fd/{self._fd}"

    def write(self, name: str, data: bytes | bytearray | memoryview) -> None:
        """Write all bytes of one tensor; keeps their hash for `is_as_written`."""
        start, size = self._extents[name]
        if len(data) != size:
            raise ValueError(f"{name} has {len(data)} bytes, planned were {size}")
        self._digests[name] = hashlib.sha256(data).digest()
        self._write_at(start, data)

    def copy(self, name: str, source_fd: int, header: Header) -> None:
        """Write one tensor of another file, bit for bit, under the same name."""
        tensor = header.tensors[name]
        size = tensor.end - tensor.start
        self.write(name, read_up_to(source_fd, size, header.data_start + tensor.start))

    def is_as_written(self, name: str, data: bytes | bytearray | memoryview) -> bool:
        """Whether these bytes, read from the disk, are those that were written."""
        return self._digests.get(name) == hashlib.sha256(data).digest()

    def replace_metadata(self, metadata: Mapping[str, str]) -> None:
        """Replace the header; its length must not change."""
        header = encode_header(self._tensors, metadata)
        if len(header) != len(self._header):
            raise ValueError("the header's length changed")
        self._header = header
        self._write_at(0, header)

    def sync(self) -> None:
        """Make the bytes durable and forget the cached ones, so that a read comes from the disk."""
        with disk_faults(self.path):
            os.fsync(self._fd)
        os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def hashes(self) -> Hashes:
        """Hash the file as it lies on the disk, after `sync`.

        Raises Failed(`verify_failed`) where size or header are not what was written.
        """
        header = read_up_to(self._fd, len(self._header), 0)
        if header != self._header or os.fstat(self._fd).st_size != self.size:
            raise Failed(
                "verify_failed",
                "the output's header read back from the disk is not what was written to it; "
                "nothing was replaced: check that disk",
            )
        return hashes_of(self._fd, len(header))

    def _write_at(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        view = memoryview(data)
        with disk_faults(self.path):
            while view:
                written = os.pwrite(self._fd, view, offset)
                view, offset = view[written:], offset + written
