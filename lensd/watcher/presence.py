"""Whether the file of a ledger's row still lies under the row's path."""

from __future__ import annotations

import os
from enum import Enum

from lensd.errors import FileError
from lensd.store.fs import identity_at, open_folder
from lensd.store.identity import Identity
from lensd.store.ledger.entry import Entry
from lensd.store.ledger.gone import Place


class _Unreadable(Enum):
    UNREADABLE = "unreadable"


_UNREADABLE = _Unreadable.UNREADABLE


def has_file(entry: Entry) -> bool:
    """Whether the path has the row's file; also true if that cannot be read."""
    found = _find(entry)
    return found is _UNREADABLE or (isinstance(found, Identity) and entry.is_about(found))


def has_inode(entry: Entry) -> bool:
    """As `has_file`, but the file may have been written to."""
    found = _find(entry)
    return found is _UNREADABLE or (
        isinstance(found, Identity) and found.inode == entry.identity.inode
    )


def is_lost(entry: Entry | Place) -> bool:
    """Whether nothing has the path, in a root that is there and not empty."""
    if _find(entry) is not None:
        return False
    try:
        with os.scandir(entry.root) as names:  # an unmounted root is an empty folder, or missing
            return next(names, None) is not None
    except OSError:
        return False


def is_same_disk(entry: Entry, identity: Identity) -> bool:
    """Whether a file lies on the disk of the row's file.

    Device numbers change with a boot: the row's root may show the present number of the same disk.
    """
    if entry.present.device == identity.device:
        return True
    try:
        return os.stat(entry.root).st_dev == identity.device
    except OSError:
        return False


def _find(entry: Entry | Place) -> Identity | _Unreadable | None:
    """What lies under the row's path; None for nothing."""
    folder, name = os.path.split(entry.path)
    try:
        folder_fd = open_folder(entry.root, folder)
    except (FileNotFoundError, NotADirectoryError, FileError):
        return None
    except OSError:
        return _UNREADABLE
    try:
        return identity_at(folder_fd, name)
    except OSError:
        return _UNREADABLE
    finally:
        os.close(folder_fd)
