"""Every file below a root that lensd may look at."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TypeVar

from lensd.store.fs import is_temporary
from lensd.store.identity import Identity
from lensd.store.walk import walk

BATCH = 500  # files in one query of the ledger
# Errors of a stat that do not say that the whole disk is away, as EIO and ESTALE may.
_OF_ONE_FILE = (errno.ENOENT, errno.EACCES, errno.EUCLEAN)

T = TypeVar("T")


def in_batches(found: Iterable[T], size: int = BATCH) -> Iterator[list[T]]:
    """Up to `size` items at a time."""
    files = iter(found)
    while batch := list(islice(files, size)):
        yield batch


def scan(
    root: str, *, recursive: bool, selects: Callable[[str], bool]
) -> Iterator[tuple[str, Identity]]:
    """(path relative to root, identity) of the selected files and links, in name order.

    Leaves out a file in a folder that lensd may list but not enter, and one whose inode the
    filesystem finds damaged. An unreadable root raises OSError: a root that is not there is never
    taken for an empty one.
    """
    for folder in walk(
        root,
        recursive=recursive,
        wanted=lambda path, e: not is_temporary(e.name) and selects(path),
    ):
        for name in folder.names:
            try:
                found = os.stat(name, dir_fd=folder.fd, follow_symlinks=False)
            except OSError as error:
                if error.errno not in _OF_ONE_FILE:
                    raise
                continue
            yield folder.path + name, Identity.of(found)


def temporaries(root: str, *, recursive: bool) -> Iterator[str]:
    """Paths of lensd's own temporaries below root."""
    for folder in walk(root, recursive=recursive, wanted=lambda _, e: is_temporary(e.name)):
        yield from (folder.path + name for name in folder.names)


def folders_below(root: str, *, recursive: bool) -> Iterator[tuple[str, os.stat_result]]:
    """The root ("") and every folder below it that can be read, each with its stat."""
    for folder in walk(root, recursive=recursive, wanted=lambda *_: False):
        yield folder.path.rstrip("/"), os.fstat(folder.fd)
