"""Gives an archived original the name that mirrors the new path of its file, crash-safe.

The original gets the new name first and loses the old one last; between them the ledger changes.
The ledger has one note of a renaming in progress, so only one may be in progress at a time.
"""

from __future__ import annotations

import os
from contextlib import suppress

from lensd.errors import FileError, StorageError
from lensd.store.archive import Archive
from lensd.store.identity import Identity
from lensd.store.ledger import Ledger, Outcome
from lensd.store.ledger.entry import Entry
from lensd.store.ledger.notes import RenamingOriginal


class OriginalRenamer:
    """Not for several threads at once: the caller has a lock."""

    def __init__(self, ledger: Ledger, archive: Archive) -> None:
        self._ledger = ledger
        self._archive = archive

    def add_new_name(self, entry: Entry, watch: str, relative: str) -> str | None:
        """Returns the old name, for `drop_old_name`; None if the original keeps its name.

        If the archive cannot give the new name, the original stays where the ledger says.
        """
        old, sha256 = entry.archive_path, entry.sha256_in
        if old is None or sha256 is None or entry.outcome == Outcome.RESTORED:
            return None
        renamer = self._archive.renamer
        try:
            new = renamer.path_for(old, watch, relative)
        except (FileError, StorageError, OSError):
            return None
        if old == new:
            return None
        self.finish_interrupted()  # of a move that a full disk ended before its last step
        self._ledger.state.renaming_original.set(RenamingOriginal(old, new))
        try:
            displaced = renamer.add_name(old, watch, relative).displaced
        except (FileError, StorageError, OSError):
            self._ledger.state.renaming_original.clear()
            return None
        if displaced is not None and displaced.sha256 != sha256:
            self._ledger.originals.record_moved(new, displaced.path, displaced.sha256)
        self._ledger.originals.record_moved(old, new, sha256)
        return old

    def drop_old_name(self, old: str | None) -> None:
        """The last step, after the row has moved."""
        if old is not None:
            self._archive.remover.remove_second_name(old)
            self._ledger.state.renaming_original.clear()

    def finish_interrupted(self) -> None:
        """Let an original keep one of its two names, where the last steps did not happen.

        The note stays while the archive is away or cannot be written.
        """
        renaming = self._ledger.state.renaming_original.get()
        if renaming is None:
            return
        with suppress(FileError, OSError):
            if self._finish(*renaming):
                self._ledger.state.renaming_original.clear()

    def _finish(self, old: str, new: str) -> bool:
        """False: the archive is away. Raises FileError, OSError."""
        if _is_same_file(old, new):
            with suppress(StorageError):  # archive.path was changed: both stay in the old archive
                is_old = bool(self._ledger.originals.at(old))
                self._archive.remover.remove_second_name(new if is_old else old)
        elif not os.path.lexists(old):  # a disk without hard links
            if not os.path.lexists(new):
                return False
            for entry in self._ledger.originals.at(old):
                self._ledger.originals.record_moved(old, new, entry.sha256_in or "")
        return True


def _is_same_file(a: str, b: str) -> bool:
    try:
        return Identity.of(os.lstat(a)).same_inode(Identity.of(os.lstat(b)))
    except OSError:
        return False
