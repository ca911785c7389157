"""Tensor bytes in and out, without torch: read one tensor, fill a staged file of known layout."""

from __future__ import annotations

import errno
import os
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple, Self

from lensd.errors import Failed, Reason, Skipped
from lensd.store.disk_errors import disk_faults
from lensd.store.hashing import CHUNK_BYTES, fill, read_up_to, sha256_of
from lensd.store.header import Header, encode_header, tensor_bytes

TensorEntry = tuple[str, str, tuple[int, ...]]  # name, dtype, shape
Buffer = bytes | bytearray | memoryview
RUN_BYTES = 8 * 2**20  # of tensors that are read back between two reports of progress


def read_into(view: memoryview, fd: int, header: Header, name: str) -> None:
    """Fill `view`, of bytes, with tensor `name`, which has as many.

    Raises Failed(`io_error`), Skipped(`truncated`) when the file has become shorter.
    """
    if fill(view, fd, header.data_start + header.tensors[name].start) < len(view):
        raise Skipped(
            Reason.TRUNCATED,
            f"the file became shorter while tensor {name!r} was read: lensd takes it again "
            "when it is whole",
        )


def output_bytes(
    tensors: Sequence[TensorEntry], metadata: Mapping[str, str], least_header: int = 0
) -> int:
    """The exact size of a file with these tensors, this metadata and at least this header."""
    data = sum(tensor_bytes(dtype, shape) for _, dtype, shape in tensors)
    return len(encode_header(tensors, metadata, least_header)) + data


def offsets(tensors: Sequence[TensorEntry]) -> dict[str, int]:
    """Where each tensor begins in the data section, without holes in this order."""
    sizes = [tensor_bytes(dtype, shape) for _, dtype, shape in tensors]
    starts = accumulate(sizes, initial=0)
    return {name: start for (name, _, _), start in zip(tensors, starts, strict=False)}


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
            Reason.VANISHED,
            "the folder was moved while the file was compressed; lensd takes it where it is now",
        ) from error


def empty_temporary(path: str, inode: Sequence[int]) -> None:
    """Remove what was written into a temporary, if the path still names that (device, inode)."""
    fd = open_temporary(path, os.O_WRONLY)
    try:
        found = os.fstat(fd)
        if (found.st_dev, found.st_ino) == tuple(inode):
            os.ftruncate(fd, 0)
    finally:
        os.close(fd)


class _Extent(NamedTuple):
    """A tensor that was written: `start` is a byte offset within the data section."""

    name: str
    start: int
    size: int
    checksum: int  # of all tensors written up to this one


class Output:
    """Fills an existing empty file: tensors in any order, from any thread, then the header.

    The daemon creates the file, through a folder that it has checked; `inode` (device, inode)
    proves that the path still names that file. The header takes `header_bytes` with its prefix.
    """

    def __init__(self, path: str, inode: Sequence[int], header_bytes: int) -> None:
        self.path = path
        self.header_bytes = header_bytes
        self._header = b""
        self._written: list[_Extent] = []
        # CRC-32 of all tensors, in the order of `_written`: it finds faults of a disk or of memory
        # three times faster than a sha256
        self._checksum = 0
        self._lock = threading.Lock()
        self._fd = open_temporary(path, os.O_RDWR)
        found = os.fstat(self._fd)
        if (found.st_dev, found.st_ino, found.st_size) != (*inode, 0):
            os.close(self._fd)
            raise Failed(
                Reason.IO_ERROR, f"the temporary {path} is not the one lensd made; try again"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    @property
    def reading_path(self) -> str:
        """A path of this very file, whatever its name is (UTF-8 or not) or has become."""
        return f"/proc/self/fd/{self._fd}"

    @property
    def size(self) -> int:
        """The bytes of the finished file."""
        return self.header_bytes + sum(extent.size for extent in self._written)

    def write(self, start: int, tensors: Sequence[tuple[str, Buffer]]) -> int:
        """Write tensors one after the other from `start` in the data section; return the end."""
        data = b"".join(buffer for _, buffer in tensors)
        self._write_at(self.header_bytes + start, data)
        with self._lock:
            for name, buffer in tensors:
                self._checksum = zlib.crc32(buffer, self._checksum)
                size = len(buffer)
                self._written.append(_Extent(name, start, size, self._checksum))
                start += size
        return start

    def write_apart(self, starts: Mapping[str, int], tensors: Mapping[str, Buffer]) -> None:
        """Write tensors that begin at `starts`; those that follow each other with one call."""
        run: list[tuple[str, Buffer]] = []
        end = 0
        for name in sorted(tensors, key=starts.__getitem__):
            if run and starts[name] != end:
                self.write(starts[run[0][0]], run)
                run = []
            run.append((name, tensors[name]))
            end = starts[name] + len(tensors[name])
        if run:
            self.write(starts[run[0][0]], run)

    def write_file(self, data: Buffer) -> None:
        """Write a whole file, with its header, in place of tensors."""
        self._write_at(0, data)

    def copy(self, start: int, name: str, source_fd: int, header: Header) -> None:
        """Write one tensor of another file, bit for bit, under the same name."""
        tensor = header.tensors[name]
        size = tensor.end - tensor.start
        self.write(start, [(name, read_up_to(source_fd, size, header.data_start + tensor.start))])

    def finish(self, tensors: Sequence[TensorEntry], metadata: Mapping[str, str]) -> None:
        """Write the header. Raises ValueError where the tensors are not those written."""
        starts = offsets(tensors)
        planned = sorted((name, starts[name], tensor_bytes(d, s)) for name, d, s in tensors)
        if planned != sorted(extent[:3] for extent in self._written):
            raise ValueError("the tensors that were written are not those of the header")
        header = encode_header(tensors, metadata, self.header_bytes)
        if len(header) != self.header_bytes:
            raise ValueError(f"{self.header_bytes} bytes are too few for the header")
        self._header = header
        self._write_at(0, header)

    def sync(self) -> None:
        """Make the bytes durable and forget the cached ones, so that a read comes from the disk."""
        with disk_faults(self.path):
            os.fsync(self._fd)
        os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def sha256(self) -> str:
        """Hash the file as it lies on the disk, after `sync`.

        Raises Failed(`verify_failed`) where size or header are not what was written.
        """
        header = read_up_to(self._fd, len(self._header), 0)
        if header != self._header or os.fstat(self._fd).st_size != self.size:
            raise Failed(
                Reason.VERIFY_FAILED,
                "the output's header read back from the disk is not what was written to it; "
                "nothing was replaced: check that disk",
            )
        return sha256_of(self._fd)

    def first_difference(self, read: Callable[[int], None] = lambda _: None) -> str | None:
        """Read all tensors back; return the name of one whose bytes are not those written.

        `read` is called with the count of tensors that were read so far.
        """
        found = done = 0
        for run in _adjacent(self._written):
            for chunk in self._chunks(run[0].start, sum(extent.size for extent in run)):
                found = zlib.crc32(chunk, found)
            for _ in run:
                done += 1
                read(done)
        if not self._written or found == self._written[-1].checksum:
            return None
        found = 0
        for extent in self._written:
            for chunk in self._chunks(extent.start, extent.size):
                found = zlib.crc32(chunk, found)
            if found != extent.checksum:
                return extent.name
        return self._written[-1].name  # the first reading alone was wrong

    def _chunks(self, start: int, size: int) -> Iterator[memoryview]:
        """Yield these bytes of the data section; fewer where the file ends."""
        buffer = memoryview(bytearray(min(size, CHUNK_BYTES)))
        for at in range(start, start + size, CHUNK_BYTES):
            part = buffer[: start + size - at]
            yield part[: fill(part, self._fd, self.header_bytes + at)]

    def _write_at(self, offset: int, data: Buffer) -> None:
        view = memoryview(data)
        with disk_faults(self.path):
            while view:
                written = os.pwrite(self._fd, view, offset)
                view, offset = view[written:], offset + written


def _adjacent(extents: Sequence[_Extent]) -> Iterator[list[_Extent]]:
    """Yield tensors that lie one after the other in the file and were written in this order."""
    run: list[_Extent] = []
    for extent in extents:
        end = run[-1].start + run[-1].size if run else 0
        if run and (extent.start != end or end - run[0].start >= RUN_BYTES):
            yield run
            run = []
        run.append(extent)
    if run:
        yield run
