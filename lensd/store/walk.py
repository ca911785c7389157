"""The folders below a root, safe against folders that are swapped for links meanwhile."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias

from lensd.errors import Skipped
from lensd.store import own_folders
from lensd.store.fs import open_folder

Wanted: TypeAlias = Callable[[str, os.DirEntry[str]], bool]
OnUnreadable: TypeAlias = Callable[[str, OSError], None]


class Visited(NamedTuple):
    """A folder of a walk: its path below the root ("" or ending in "/"), an open descriptor that
    lasts until the next one, and the wanted names in it, in order.
    """

    path: str
    fd: int
    names: list[str]


def walk(
    root: str,
    *,
    recursive: bool,
    wanted: Wanted,
    on_unreadable: OnUnreadable = lambda _, __: None,
) -> Iterator[Visited]:
    """Every folder of a root; links to folders are not entered, nor are lensd's own folders.

    `wanted(path, entry)` decides about each entry that is no folder. Only names are kept, since an
    entry with a stat is ten times as large, and a folder may have 100,000 files. A folder that
    cannot be read, or vanishes, is left out, the former after `on_unreadable(path, error)`; an
    unreadable root raises OSError.
    """
    pending = [""]
    while pending:
        folder = pending.pop()
        try:
            fd = open_folder(root, folder)  # not by its path: a link may have its name now
        except Skipped:
            if not folder:
                raise
            continue
        except OSError as error:
            if not folder:
                raise
            if not isinstance(error, FileNotFoundError | NotADirectoryError):
                on_unreadable(folder, error)
            continue
        try:
            if own_folders.includes(fd):
                continue
            names, folders = _read_names(fd, folder, wanted)
            yield Visited(folder, fd, names)
        finally:
            os.close(fd)
        if recursive:
            pending += [f"{folder}{name}/" for name in reversed(folders)]


def linked_folders(root: str) -> Iterator[str]:
    """Paths below the root of the symbolic links to folders, which no walk enters."""
    for folder in walk(root, recursive=True, wanted=lambda _, entry: _is_linked_folder(entry)):
        yield from (folder.path + name for name in folder.names)


def _is_linked_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_symlink() and entry.is_dir()
    except OSError:  # a link to itself, or to what lensd may not see
        return False


def _read_names(fd: int, folder: str, wanted: Wanted) -> tuple[list[str], list[str]]:
    """Wanted names and names of folders, both in order."""
    names, folders = [], []
    with os.scandir(fd) as found:
        for entry in found:
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.name)
            elif wanted(folder + entry.name, entry):
                names.append(entry.name)
    return sorted(names), sorted(folders)
