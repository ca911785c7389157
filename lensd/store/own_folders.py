"""The folders that lensd itself fills, archive and state: no walk of a watched folder enters them.

They are known by device and inode, so that they are noticed under any path: a bind mount may show
them below a watched folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from lensd.store.staging import Inode, inode_of

_inodes: dict[str, Inode] = {}


def note(path: str, inode: Inode) -> None:
    """Remember what the folder is now. From any thread."""
    _inodes[path] = inode


def note_all(paths: Iterable[str]) -> None:
    """As `note`, for the folders that are there; others are forgotten."""
    _inodes.clear()
    for path in paths:
        try:
            found = os.stat(path)
        except OSError:
            continue
        note(path, (found.st_dev, found.st_ino))


def paths() -> list[str]:
    """Their paths."""
    return list(_inodes)


def includes(folder_fd: int) -> bool:
    """Whether an open folder is one of them."""
    return bool(_inodes) and inode_of(folder_fd) in _inodes.values()
