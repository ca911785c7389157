"""Every file below a root that lensd may look at."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TypeVar

from lensd.errors import Skipped
from lensd.store.fs import is_temporary, open_folder
from lensd.store.identity import Identity

BATCH = 500  # files that are asked of the ledger at once

T = TypeVar("T")


def in_batches(found: Iterable[T]) -> Iterator[list[T]]:
    """What is found, as it comes, a few hundred at a time."""
    files = iter(found)
    while batch := list(islice(files, BATCH)):
        yield batch


def scan(
    root: str, *, recursive: bool, selects: Callable[[str], bool]
) -> Iterator[tuple[str, Identity]]:
    """(path relative to root, identity) of the selected files, links among them, in name order.

    Folders that are links are not entered. A folder that cannot be read, or vanishes, is left out;
    an unreadable root raises OSError: a root that is not there is never taken for an empty one.
    """
    for folder, fd, names in _folders(
        root,
        recursive=recursive,
        wanted=lambda path, e: not is_temporary(e.name) and selects(path),
    ):
        for name in names:
            try:
                found = os.stat(name, dir_fd=fd, follow_symlinks=False)
            except FileNotFoundError:
                continue
            yield folder + name, Identity.of(found)


def temporaries(root: str, *, recursive: bool) -> Iterator[str]:
    """Paths of lensd's own temporaries below root."""
    for folder, _, names in _folders(
        root, recursive=recursive, wanted=lambda _, e: is_temporary(e.name)
    ):
        yield from (folder + name for name in names)


def below(root: str, *, recursive: bool) -> Iterator[tuple[str, os.stat_result]]:
    """The root ("") and every folder below it that can be read, each with what it is."""
    for folder, _, _ in _folders(root, recursive=recursive, wanted=lambda *_: False):
        try:
            yield folder.rstrip("/"), os.stat(os.path.join(root, folder))
        except OSError:
            continue


def linked_folders(root: str) -> Iterator[str]:
    """Symbolic links to folders below root, which are not entered."""
    for folder, _, names in _folders(
        root, recursive=True, wanted=lambda _, e: e.is_symlink() and e.is_dir()
    ):
        yield from (folder + name for name in names)


def _folders(
    root: str, *, recursive: bool, wanted: Callable[[str, os.DirEntry[str]], bool]
) -> Iterator[tuple[str, int, list[str]]]:
    """Each folder, its descriptor until the next one comes, and names of what is wanted in it.

    `wanted(path, entry)` is asked for whatever is no folder. Of a folder with 100,000 files only
    names are kept, in order: an entry that was asked for its stat is ten times as large.
    """
    pending = [""]
    while pending:
        folder = pending.pop()
        try:
            fd = open_folder(root, folder)  # and not its path: a link may have its name by now
        except (OSError, Skipped):
            if not folder:
                raise
            continue
        try:
            names, folders = _names(fd, folder, wanted)
            yield folder, fd, names
        finally:
            os.close(fd)
        if recursive:
            pending += [f"{folder}{name}/" for name in reversed(folders)]


def _names(
    fd: int, folder: str, wanted: Callable[[str, os.DirEntry[str]], bool]
) -> tuple[list[str], list[str]]:
    """Wanted names and names of folders, both in order."""
    names, folders = [], []
    with os.scandir(fd) as found:
        for entry in found:
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.name)
            elif wanted(folder + entry.name, entry):
                names.append(entry.name)
    return sorted(names), sorted(folders)
