"""Whether two folders show the same files, perhaps through bind mounts in one of them.

Paths do not show that, and neither do the inodes of the folders above: a bind mount shows a folder
under a second path. The kernel lists for each mount which folder of its filesystem it shows.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from lensd.store.mounts import Mount, mount_of, mount_of_folder
from lensd.store.paths import is_below


class Shown(NamedTuple):
    """A folder as a path shows it, and where it is in its filesystem."""

    path: str
    device: tuple[int, int]
    inside: str


def find_overlap(folder: str, other: str, mounts: Sequence[Mount]) -> str | None:
    """The path in `folder`, or the folder itself, that shows files of `other`; None: no path does.

    Both are absolute paths without links; a mount below either of them belongs to it.
    """
    others = _shown(other, mounts)
    for shown in _shown(folder, mounts):
        for found in others:
            if shown.device == found.device and _is_same_tree(shown, found):
                return shown.path
    return None


def lies_in(folder_fd: int, folder: str, mounts: Sequence[Mount]) -> bool:
    """Whether an open folder is another folder or lies in it, under whatever path it was opened."""
    mount = mount_of_folder(folder_fd, mounts)
    if mount is None:
        return False
    path = os.readlink(f"/proc/self/fd/{folder_fd}")
    opened = Shown(path, mount.device, _join(mount.shows, os.path.relpath(path, mount.path)))
    return any(
        opened.device == shown.device and is_below(opened.inside, shown.inside)
        for shown in _shown(folder, mounts)
    )


def _shown(folder: str, mounts: Sequence[Mount]) -> tuple[Shown, ...]:
    """The folder itself, and each mount below it."""
    return _find_shown(folder, tuple(mounts))


@lru_cache(maxsize=8)  # each job asks for the archive, and the mounts rarely change
def _find_shown(folder: str, mounts: tuple[Mount, ...]) -> tuple[Shown, ...]:
    return tuple(_look_for_shown(folder, mounts))


def _look_for_shown(folder: str, mounts: Sequence[Mount]) -> Iterator[Shown]:
    point = mount_of(folder, (mount.path for mount in mounts))
    for mount in reversed(mounts):  # the last one on a point hides those before it
        if mount.path == point:
            inside = _join(mount.shows, os.path.relpath(folder, point))
            yield Shown(folder, mount.device, inside)
            break
    for mount in mounts:
        if mount.path != folder and is_below(mount.path, folder):
            yield Shown(mount.path, mount.device, mount.shows)


def _is_same_tree(a: Shown, b: Shown) -> bool:
    """Whether one of two folders of a filesystem is the other or lies in it, and can be reached.

    The inodes are compared as well: on some network filesystems each mount shows "/".
    """
    if is_below(a.inside, b.inside):
        return _is_same_folder(a.path, _join(b.path, os.path.relpath(a.inside, b.inside)))
    if is_below(b.inside, a.inside):
        return _is_same_folder(_join(a.path, os.path.relpath(b.inside, a.inside)), b.path)
    return False


def _is_same_folder(a: str, b: str) -> bool:
    try:
        return os.path.samestat(os.lstat(a), os.lstat(b))
    except OSError:
        return False


def _join(folder: str, relative: str) -> str:
    return folder if relative == "." else os.path.join(folder, relative)
