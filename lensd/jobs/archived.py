"""An original at the path that the ledger has for it, or one that no ledger knows any more.

The path may be in an archive that `archive.path` named before: its originals stay there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from lensd.store.archive import Archive
from lensd.store.fs import identity_at, open_regular
from lensd.store.hashing import sha256_of
from lensd.store.identity import Identity
from lensd.store.paths import is_below
from lensd.store.publish import discard


def open_original(archive: Archive, path: str) -> int:
    """A read descriptor. Raises FileNotFoundError, Skipped(`symlink` | `not_regular`)."""
    if is_below(path, archive.root):
        return archive.originals.open(path)
    with _former_folder(path) as (folder_fd, name):
        return open_regular(folder_fd, name)


def has_original(archive: Archive, path: str) -> bool:
    """Whether the path has a file."""
    if is_below(path, archive.root):
        return archive.originals.has(path)
    return os.path.lexists(path)


def remove_original(archive: Archive, path: str) -> None:
    """Unlink it durably. Raises FileNotFoundError, Skipped, Failed(`io_error`)."""
    if is_below(path, archive.root):
        archive.remover.remove(path)
        return
    with _former_folder(path) as (folder_fd, name):
        there = identity_at(folder_fd, name)
        if there is not None:
            discard(folder_fd, name, there)


def is_archived(folder_fd: int, name: str, archive: Archive, watch: str, within: str) -> bool:
    """Whether a temporary is an archived original, by inode or hash, of a file in its folder.

    A crash after an exchange leaves such a temporary; the ledger that knew it may be lost.
    """
    there = identity_at(folder_fd, name)
    if there is None:
        return False
    ours: str | None = None
    for archived, _ in archive.originals.listed(watch, within):
        found = Identity.of(os.lstat(archived))
        if found.same_inode(there):
            return True
        if found.size == there.size:
            ours = ours or hash_and_close(open_regular(folder_fd, name))
            if hash_and_close(archive.originals.open(archived)) == ours:
                return identity_at(folder_fd, name) == there
    return False


def hash_and_close(fd: int) -> str:
    """The hash of an open file, read from the disk. Raises Failed(`io_error`)."""
    try:
        return sha256_of(fd, drop_cache=True)
    finally:
        os.close(fd)


@contextmanager
def _former_folder(path: str) -> Iterator[tuple[int, str]]:
    folder, name = os.path.split(path)
    folder_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield folder_fd, name
    finally:
        os.close(folder_fd)
