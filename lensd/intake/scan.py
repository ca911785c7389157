"""Every file below a root that lensd may look at."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from lensd.errors import Skipped
from lensd.store.files import is_temporary, open_folder
from lensd.store.identity import Identity


def scan(
    root: str, *, recursive: bool, selects: Callable[[str], bool]
) -> Iterator[tuple[str, Identity]]:
    """(path relative to root, identity) of the selected files, links among them, in name order.

    Folders that are links are not entered. A folder that cannot be read, or vanishes, is left out;
    an unreadable root raises OSError: a root that is not there is never taken for an empty one.
    """
    for folder, entries in _folders(root, recursive=recursive):
        for entry in entries:
            path = folder + entry.name
            if entry.is_dir(follow_symlinks=False) or is_temporary(entry.name):
                continue
            if selects(path):
                try:
                    yield path, Identity.of(entry.stat(follow_symlinks=False))
                except FileNotFoundError:
                    continue


def temporaries(root: str, *, recursive: bool) -> Iterator[str]:
    """Paths of lensd's own temporaries below root."""
    for folder, entries in _folders(root, recursive=recursive):
        yield from (folder + e.name for e in entries if is_temporary(e.name))


def below(root: str, *, recursive: bool) -> Iterator[tuple[str, os.stat_result]]:
    """The root ("") and every folder below it that can be read, each with what it is."""
    for folder, _ in _folders(root, recursive=recursive):
        try:
            yield folder.rstrip("/"), os.stat(os.path.join(root, folder))
        except OSError:
            continue


def linked_folders(root: str) -> Iterator[str]:
    """Symbolic links to folders below root, which are not entered."""
    for folder, entries in _folders(root, recursive=True):
        yield from (folder + e.name for e in entries if e.is_symlink() and e.is_dir())


def _folders(root: str, *, recursive: bool) -> Iterator[tuple[str, list[os.DirEntry[str]]]]:
    """Each folder, with what is in it; its entries may be asked until the next one comes."""
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
            with os.scandir(fd) as found:
                entries = sorted(found, key=lambda e: e.name)
            yield folder, entries
            if recursive:
                below = [e for e in entries if e.is_dir(follow_symlinks=False)]
                pending += [f"{folder}{e.name}/" for e in reversed(below)]
        finally:
            os.close(fd)
