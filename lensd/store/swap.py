"""Gives two files of one folder each other's name, as their filesystem is proven to do it.

Without an exchange, but with hard links, the file that loses its name gets a second one first: so
its name has complete bytes at any time, and what a program still writes to it is not lost.
"""

from __future__ import annotations

import contextlib
import errno
import os

from lensd.store.copy import CANNOT_LINK
from lensd.store.filesystem import enforces_leases
from lensd.store.fs import identity_at, new_token, temporary_name
from lensd.store.probe import Way, prove
from lensd.store.rename import NotSupported, exchange


def swap(folder_fd: int, source: str, target: str, way: Way | None = None) -> Way:
    """Let the file `source` have the name `target`, and the reverse. Returns the way it took.

    Without a proven `way`, a filesystem that does not enforce leases is probed first.
    Raises NotSupported (also if the names are as before), FileNotFoundError, OSError. A filesystem
    that is not probed may rename `source` to `target` instead. So `source` must be the file that
    should get the name `target`, and the caller must check both names.
    """
    if way is None:
        way = "exchange" if enforces_leases(folder_fd) else prove(folder_fd).way
    if way == "link":
        _swap_by_link(folder_fd, source, target)
        return way
    if way == "rename":
        raise _not_supported(source, target)
    before = identity_at(folder_fd, source), identity_at(folder_fd, target)
    exchange(folder_fd, source, target)
    if before == (identity_at(folder_fd, source), identity_at(folder_fd, target)):
        raise _not_supported(source, target)
    return "exchange"


def _swap_by_link(folder_fd: int, source: str, target: str) -> None:
    """For a moment nothing has the name `source`. A crash may leave the second name."""
    aside = temporary_name(new_token())
    try:
        os.link(target, aside, src_dir_fd=folder_fd, dst_dir_fd=folder_fd, follow_symlinks=False)
    except OSError as error:
        if error.errno not in CANNOT_LINK:
            raise
        raise _not_supported(source, target) from error
    linked, named = identity_at(folder_fd, aside), identity_at(folder_fd, target)
    try:
        if linked is None or named is None or not linked.same_inode(named):
            raise FileNotFoundError(errno.ENOENT, "another file took the name", target)
        os.replace(source, target, src_dir_fd=folder_fd, dst_dir_fd=folder_fd)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(aside, dir_fd=folder_fd)
        raise
    os.rename(aside, source, src_dir_fd=folder_fd, dst_dir_fd=folder_fd)


def _not_supported(source: str, target: str) -> NotSupported:
    return NotSupported(errno.ENOTSUP, os.strerror(errno.ENOTSUP), source, None, target)
