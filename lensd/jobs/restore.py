"""Bringing originals back, by whoever holds the state folder's lock."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from lensd.errors import Skipped, UsageError
from lensd.jobs.rebuild import rebuild
from lensd.logs.events import FileRestored
from lensd.store import publish
from lensd.store.archive import Archive
from lensd.store.copy import copy_onto_free_name
from lensd.store.entry import Entry
from lensd.store.fs import identity_at, make_folders, open_folder
from lensd.store.identity import Identity
from lensd.store.ledger import Ledger
from lensd.store.paths import is_below, place
from lensd.watcher.folder import Folder, Log
from lensd.watcher.move_tracker import MoveTracker, newest
from lensd.watcher.own_output import read_marks
from lensd.watcher.settle import Key


@dataclass(frozen=True, slots=True)
class Original:
    """An archived original, and the path that it belongs to."""

    folder: Folder
    relative: str
    sha256: str
    path: str  # in the archive
    entry: Entry | None
    borrowed: bool = False  # of a file that is still there: this one is a copy of its output

    @property
    def home(self) -> str:
        return os.path.join(self.folder.root, self.relative)


class Restorer:
    """Finds originals and puts them back."""

    def __init__(
        self, folders: Sequence[Folder], ledger: Ledger, archive: Archive, log: Log
    ) -> None:
        self._folders = folders
        self._ledger = ledger
        self._archive = archive
        self._log = log
        self._move_tracker = MoveTracker(folders, ledger, archive, log)

    def everything(self) -> Iterator[Original]:
        """All originals that the ledger says are in the archive, but for older versions.

        Under the path that their outputs have now, also where nobody has noted that yet.
        """
        roots = {f.root: f for f in self._folders}
        if not self._ledger.readonly:
            self._rebuild()
        moved = newest(self._move_tracker.plan())
        for entry in self._ledger.with_outcome("compressed"):
            root, path = moved.get(entry.job_id, Key(entry.root, entry.path))
            if root in roots and entry.archive_path is not None:
                yield self._of_entry(roots[root], path, entry)

    def of_path(self, path: str, version: str | None = None) -> Original:
        """The original of a path in a watched folder; `version` is its sha256, or how it begins.

        Raises UsageError when there is none.
        """
        there = place(path)
        folder = next((f for f in self._folders if is_below(there, f.root)), None)
        if folder is None:
            raise UsageError(f"{path} is in no watched folder; give the path that the original had")
        relative = os.path.relpath(there, folder.root)
        moved = self._moved_here(folder, relative)
        if version is not None:
            return self._older(folder, relative, version, moved)
        entry = moved or self._ledger.find(folder.root, relative)
        if entry is not None and entry.outcome == "compressed":
            if entry.archive_path is None:
                raise UsageError(f"{path} cannot be restored: {entry.message or 'it was pruned'}")
            return self._of_entry(folder, relative, entry)
        original = self._of_marks(folder, relative)
        if original is None:
            raise UsageError(
                f"the archive has no original of {path}; `lensd restore --list` shows what it has"
            )
        return original

    def put_back(self, original: Original, *, purge: bool = False) -> str:
        """Replace the output by its original, bit for bit; returns move, reflink or copy.

        Raises Skipped(`changed`) when the file is no longer lensd's output.
        """
        published = self._published(original)
        original = self._at_home(original)
        job_id = self._intend(original)
        method = publish.return_original(
            original.path,
            original.sha256,
            original.folder.root,
            original.relative,
            published=published,
            token=job_id,
        )
        gone = purge or method == "move"
        identity = Identity.of(os.lstat(original.home))
        self._ledger.came_back(job_id, identity, original.path, gone=gone)
        if purge and method != "move":
            self._archive.remove(original.path)  # the ledger may say less than the disk holds
        self._log(
            FileRestored(
                path=original.home,
                watch=original.folder.name,
                job_id=job_id,
                sha256=original.sha256,
                method=method,
                bytes=identity.size,
            )
        )
        return method

    def _rebuild(self) -> None:
        """The ledger may be lost: what it knew is in the folders and in the archive."""
        for folder in self._folders:
            with contextlib.suppress(OSError):
                rebuild(folder, self._ledger, self._archive, self._log)

    def _moved_here(self, folder: Folder, relative: str) -> Entry | None:
        """The row of an output that was moved to this path, where nobody has noted that yet."""
        try:
            identity = Identity.of(os.lstat(os.path.join(folder.root, relative)))
        except OSError:
            return None
        key = Key(folder.root, relative)
        if self._ledger.knows(*key, identity) is not None:
            known = self._ledger.find(*key)
            if known is None or known.outcome != "output":
                return None
        entry = self._move_tracker.origin(key, identity) or self._move_tracker.origin_of_output(key)
        return entry if entry is not None and entry.outcome == "compressed" else None

    def _of_entry(self, folder: Folder, relative: str, entry: Entry) -> Original:
        sha256, path = entry.sha256_in or "", entry.archive_path or ""
        if not os.path.lexists(path):  # a crash between the archive and the ledger
            path = self._archive.locate(entry.watch, entry.path, sha256) or path
        return Original(folder, relative, sha256, path, entry)

    def _of_marks(self, folder: Folder, relative: str) -> Original | None:
        """By what the output says of itself: the ledger has no row of it, or it is a copy."""
        marked = read_marks(folder.root, relative)
        if marked is None:
            return None
        own = self._archive.locate(folder.name, relative, marked.sha256)
        if own is not None:
            return Original(folder, relative, marked.sha256, own, None)
        for entry in self._ledger.of_original(marked.sha256):
            if entry.archive_path is not None and os.path.lexists(entry.archive_path):
                path = entry.archive_path
                return Original(folder, relative, marked.sha256, path, entry, borrowed=True)
        return None

    def _at_home(self, original: Original) -> Original:
        """The row where its output is now; a copy of an output gets a copy of the original."""
        entry = original.entry
        if original.borrowed:
            return replace(original, path=self._copied(original), entry=None, borrowed=False)
        if entry is None or entry.sha256_in != original.sha256:
            return original  # an older version, or nothing that the ledger knows
        if (entry.root, entry.path) != (original.folder.root, original.relative):
            self._move_tracker.move(entry, Key(original.folder.root, original.relative))
        return self._of_entry(  # a move may have put its original elsewhere
            original.folder, original.relative, self._ledger.get(entry.job_id)
        )

    def _copied(self, original: Original) -> str:
        """A second, verified copy of an original in the archive, at the place of a second path.

        If the place has another original already, that one stays and nothing is restored.
        """
        target = self._archive.place(original.folder.name, original.relative)
        fd = self._archive.open_original(original.path)
        folder_fd = make_folders(self._archive.root, os.path.dirname(_below(self._archive, target)))
        try:
            identity, name = Identity.of(os.fstat(fd)), os.path.basename(target)
            copy_onto_free_name(fd, identity, original.sha256, folder_fd, name)
        except FileExistsError:
            raise UsageError(
                f"{original.home} is a copy of another output, and {target} holds another "
                f"original; copy the one that you want by hand: cp -a {original.path} "
                f"{original.home}"
            ) from None
        finally:
            os.close(folder_fd)
            os.close(fd)
        return target

    def _older(self, folder: Folder, relative: str, version: str, moved: Entry | None) -> Original:
        known = dict(self._archive.versions(folder.name, relative))
        history = self._ledger.history(folder.root, relative)
        if moved is not None:
            history = [*self._ledger.history(moved.root, moved.path), *history]
        for entry in reversed(history):
            if entry.sha256_in and entry.archive_path and os.path.lexists(entry.archive_path):
                known[entry.sha256_in] = entry.archive_path
        fits = [(sha, path) for sha, path in known.items() if sha.startswith(version.lower())]
        if len(fits) != 1:
            has = ", ".join(sha[:12] for sha in known) or "none"
            raise UsageError(
                f"{version!r} names {'no' if not fits else 'more than one'} version of {relative}; "
                f"the archive has: {has}"
            )
        return Original(
            folder, relative, *fits[0], moved or self._ledger.find(folder.root, relative)
        )

    def _published(self, original: Original) -> Identity | None:
        """What the original may replace: lensd's own output, or nothing at all."""
        try:
            folder_fd = open_folder(original.folder.root, os.path.dirname(original.relative))
        except FileNotFoundError:
            return None  # the output was deleted with its folder
        try:
            there = identity_at(folder_fd, os.path.basename(original.relative))
        finally:
            os.close(folder_fd)
        if there is None or read_marks(original.folder.root, original.relative) is not None:
            return there
        raise Skipped(
            "changed",
            f"{original.home} is not lensd's output any more; somebody replaced it. Move it away "
            "first, then restore again",
        )

    def _intend(self, original: Original) -> str:
        """Written down first: after a crash the daemon must know the file as a restored one."""
        job_id = secrets.token_hex(8)
        archived = Identity.of(os.lstat(original.path))
        self._ledger.record(
            job_id,
            original.folder.root,
            original.folder.name,
            original.relative,
            archived,
            outcome="restored",
            sha256_in=original.sha256,
            bytes_in=archived.size,
            archive_path=original.path,
        )
        return job_id


def _below(archive: Archive, path: str) -> str:
    return os.path.relpath(path, archive.root)
