"""inotify(7): a descriptor of the kernel, its watches and its events.

lensd has its own few lines for this, since it must know the descriptor, and each watch that the
kernel refuses or takes away (docs/decisions/0013-watching-the-watching.md).
"""

from __future__ import annotations

import ctypes
import os
import select
import struct
from collections.abc import Iterator
from typing import NamedTuple

IN_MODIFY = 0x2
IN_CLOSE_WRITE = 0x8
IN_MOVED_FROM = 0x40
IN_MOVED_TO = 0x80
IN_CREATE = 0x100
IN_DELETE = 0x200
IN_UNMOUNT = 0x2000
IN_Q_OVERFLOW = 0x4000
IN_IGNORED = 0x8000
IN_ONLYDIR = 0x1000000
IN_DONT_FOLLOW = 0x2000000
IN_ISDIR = 0x40000000

# Not that a program reads a file: lensd itself reads each one, and those events fill the queue.
_MASK = (
    IN_MODIFY | IN_CLOSE_WRITE | IN_MOVED_FROM | IN_MOVED_TO | IN_CREATE | IN_DELETE
    | IN_ONLYDIR | IN_DONT_FOLLOW
)  # fmt: skip
_HEAD = struct.Struct("iIII")  # watch, mask, cookie, length of the name
_BUFFER_BYTES = 65536

_libc = ctypes.CDLL(None, use_errno=True)


class Event(NamedTuple):
    """What happened to a name in a watched folder. The mask has IN_ bits."""

    watch: int
    mask: int
    name: str


class Inotify:
    """An inotify descriptor. One thread reads; another one may only call `wake`."""

    def __init__(self) -> None:
        """Raises OSError(EMFILE) when the kernel gives this user no further instance."""
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            self.descriptor = _checked(_libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK))
        except OSError:
            os.close(self._wake)
            raise
        self._poll = select.poll()
        for fd in (self.descriptor, self._wake):
            self._poll.register(fd, select.POLLIN)

    def add(self, folder: str) -> int:
        """Watch a folder, not a link to one; returns the number of the watch.

        A folder that is watched already keeps its number. Raises OSError; ENOSPC: the user has as
        many watches as the kernel allows.
        """
        path = os.fsencode(folder)
        return _checked(_libc.inotify_add_watch(self.descriptor, path, ctypes.c_uint32(_MASK)))

    def remove(self, watch: int) -> None:
        """Without effect for a watch that the kernel has removed."""
        _libc.inotify_rm_watch(self.descriptor, watch)

    def read(self) -> Iterator[Event]:
        """Wait for events, or for `wake`. Raises OSError."""
        self._poll.poll()
        try:
            data = os.read(self.descriptor, _BUFFER_BYTES)
        except BlockingIOError:  # it was `wake`
            return
        at = 0
        while at < len(data):
            watch, mask, _, length = _HEAD.unpack_from(data, at)
            at += _HEAD.size
            name = data[at : at + length].rstrip(b"\0")
            at += length
            yield Event(watch, mask, os.fsdecode(name))

    def wake(self) -> None:
        """End the wait of `read` now, and every later one. From any thread."""
        os.eventfd_write(self._wake, 1)

    def close(self) -> None:
        os.close(self.descriptor)
        os.close(self._wake)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
