"""Reading and hashing open files by position: never mapped, since truncation would be a SIGBUS."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator

from lensd.store.disk_errors import Interrupted, disk_faults

CHUNK_BYTES = 2**20


def read_up_to(fd: int, count: int, offset: int) -> bytearray:
    """Read `count` bytes from `offset`, fewer where the file ends. Raises Failed(`io_error`)."""
    buffer = bytearray(count)
    with memoryview(buffer) as view:
        filled = fill(view, fd, offset)
    del buffer[filled:]
    return buffer


def fill(view: memoryview, fd: int, offset: int) -> int:
    """Read from `offset` until `view` is full or the file ends; returns the count of bytes.

    Raises Failed(`io_error`).
    """
    filled = 0
    try:
        while filled < len(view):
            got = os.preadv(fd, [view[filled:]], offset + filled)
            if got == 0:
                break
            filled += got
    except OSError:
        with disk_faults(fd):  # only here: this function is called for each tensor
            raise
    return filled


def chunks(fd: int, stop: Callable[[], bool] | None = None) -> Iterator[memoryview]:
    """The whole file in pieces of 1 MiB, each valid until the next; Interrupted on `stop()`."""
    buffer = memoryview(bytearray(CHUNK_BYTES))
    offset = 0
    while True:
        if stop is not None and stop():
            raise Interrupted
        with disk_faults(fd):
            got = os.preadv(fd, [buffer], offset)
        if got == 0:
            return
        yield buffer[:got]
        offset += got


def sha256_of(fd: int, *, drop_cache: bool = False, stop: Callable[[], bool] | None = None) -> str:
    """Hex sha256 of the whole file. `drop_cache` reads from the disk, not from the page cache.

    The kernel drops only pages that are on the disk: call fsync first. Raises Interrupted,
    Failed(`io_error`).
    """
    if drop_cache:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    digest = hashlib.sha256()
    for chunk in chunks(fd, stop):
        digest.update(chunk)
    return digest.hexdigest()


def data_sha256_of(fd: int, stop: Callable[[], bool] | None = None) -> str:
    """Hex sha256 of a safetensors file without its header; its first 12 digits are AutoV3.

    Raises Interrupted, Failed(`io_error`).
    """
    start = 8 + int.from_bytes(read_up_to(fd, 8, 0), "little")
    digest = hashlib.sha256()
    offset = 0
    for chunk in chunks(fd, stop):
        digest.update(chunk[max(0, start - offset) :])
        offset += len(chunk)
    return digest.hexdigest()
