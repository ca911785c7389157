"""Finds the archived originals that can be restored, and the path that each belongs to."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from lensd.errors import UsageError
from lensd.jobs.rebuild import rebuild
from lensd.store.archive import Archive
from lensd.store.identity import Identity
from lensd.store.ledger import Ledger, Outcome
from lensd.store.ledger.entry import Entry
from lensd.store.ledger.gone import UNCOMPRESSED
from lensd.store.paths import is_below, is_pattern, matcher_of, resolve_path
from lensd.watcher.folder import Folder, Log
from lensd.watcher.move_tracker import MoveTracker, choose_paths
from lensd.watcher.own_output import read_marks
from lensd.watcher.presence import has_file
from lensd.watcher.settle import Key

NAMED = 3  # paths in a message, at most
# Outcomes of files that are originals.
_UNCHANGED = (Outcome.RESTORED, Outcome.BASELINE, Outcome.ANALYZED, *UNCOMPRESSED)


@dataclass(frozen=True, slots=True)
class Original:
    """An archived original, and the path in a watched folder that it belongs to.

    `is_shared`: the file at the path is a copy of another output, whose original this is. It may
    be that other file, which was restored: `archive_path` is the file's path then.
    `is_version`: the user chose this original, whatever lies at the path.
    """

    folder: Folder
    relative: str
    sha256: str
    archive_path: str
    entry: Entry | None
    is_shared: bool = False
    is_version: bool = False

    @property
    def full_path(self) -> str:
        return os.path.join(self.folder.root, self.relative)

    @property
    def bytes(self) -> int:
        """0 if the ledger has no size."""
        return (self.entry and self.entry.bytes_in) or 0


def _is_original(entry: Entry) -> bool:
    """Whether the file that lensd restored, or did not compress, is still there."""
    if entry.outcome not in _UNCHANGED:
        return False
    try:
        return entry.is_about(Identity.of(os.lstat(entry.full_path)))
    except OSError:
        return False


class OriginalFinder:
    """Changes nothing, but rebuilds a lost ledger if it may be written."""

    def __init__(
        self,
        folders: Sequence[Folder],
        ledger: Ledger,
        archive: Archive,
        log: Log,
        move_tracker: MoveTracker,
    ) -> None:
        self._folders = folders
        self._ledger = ledger
        self._archive = archive
        self._log = log
        self._move_tracker = move_tracker

    def find_all(self) -> Iterator[Original]:
        """All originals that the ledger has in the archive, without older versions.

        An output that was moved gives its original the new path, even if the ledger still has the
        old one. Copies of outputs that the ledger knows come last. They share their originals.
        """
        roots = {f.root: f for f in self._folders}
        if not self._ledger.readonly:
            self._rebuild()
        planned = list(self._move_tracker.plan())
        moved = choose_paths(planned)
        # Paths whose own output is gone, since another one got its name.
        taken = {moved[e.job_id] for e, _ in planned if _has_original(e)}
        for entry in self._ledger.files.with_outcome(Outcome.COMPRESSED):
            old = Key(entry.root, entry.path)
            root, path = moved.get(entry.job_id, old)
            if entry.job_id not in moved and old in taken:
                continue
            if root in roots and entry.archive_path is not None:
                yield original_of_entry(self._archive, roots[root], path, entry)
        paths = set(moved.values())
        for entry in self._ledger.files.with_outcome(Outcome.OUTPUT):
            if entry.root in roots and Key(entry.root, entry.path) not in paths:
                copied = self._find_by_marks(roots[entry.root], entry.path, search=False)
                if copied is not None:
                    yield copied

    def find_each(self, path: str) -> list[Original]:
        """The original of a file, or those of a folder or of a pattern, as in the shell.

        Raises UsageError if there is none.
        """
        resolved = resolve_path(path)
        if not (is_pattern(path) or os.path.isdir(resolved)):
            try:
                return [self.find(path)]
            except UsageError:  # the path may be that of a folder that was deleted
                if found := self._select(lambda full: is_below(full, f"{resolved}/")):
                    return found
                raise
        found = self._select(matcher_of(path))
        if not found:
            raise UsageError(
                f"the archive has no originals of {path}; `lensd restore --list` shows what it "
                "has, and `lensd restore --all` restores all of it"
            )
        return found

    def _select(self, wanted: Callable[[str], bool]) -> list[Original]:
        """The originals whose full paths are wanted."""
        return [original for original in self.find_all() if wanted(original.full_path)]

    def _describe_likely(self, path: str) -> str:
        """Which path may be meant instead of one that is in no watched folder."""
        name = os.path.basename(path)
        likely = [o.full_path for o in self.find_all() if os.path.basename(o.relative) == name]
        if 0 < len(likely) <= NAMED:
            return f"the archive has the original of {' and of '.join(likely)}"
        return "give the path that the original had; `lensd restore --list` shows all"

    def find(self, path: str, version: str | None = None) -> Original:
        """The original of a path in a watched folder; `version` is the start of its sha256.

        Raises UsageError if there is none.
        """
        resolved = resolve_path(path)
        folder = next((f for f in self._folders if is_below(resolved, f.root)), None)
        if folder is None:
            raise UsageError(f"{path} is in no watched folder; {self._describe_likely(path)}")
        relative = os.path.relpath(resolved, folder.root)
        moved = self._find_moved(folder, relative)
        if version is not None:
            return self._find_version(folder, relative, version, moved)
        entry = moved or self._find_current(folder, relative)
        if entry is not None and entry.archive_path is not None:
            return original_of_entry(self._archive, folder, relative, entry)
        original = self._find_by_marks(folder, relative)
        if original is not None:
            return original
        if entry is not None:
            why = entry.message or "the archive does not have its original any more"
            raise UsageError(f"{path} cannot be restored: {why}")
        raise self._without_original(path, folder, relative, moved)

    def _find_current(self, folder: Folder, relative: str) -> Entry | None:
        """The row whose output lies at the path, or has lain there if nothing does.

        Raises UsageError if that output is at another path now. Another output may have replaced it
        while no daemon ran.
        """
        newest = self._ledger.files.find(folder.root, relative)
        entry = self._ledger.files.current(folder.root, relative)
        if newest is None or entry is None:
            return None
        if not os.path.lexists(entry.full_path):
            new = choose_paths(self._move_tracker.plan()).get(entry.job_id)
            if new is not None:
                raise UsageError(
                    f"{entry.full_path} is {os.path.join(*new)} now; restore it by that path"
                )
            return entry
        marked = read_marks(folder.root, relative)
        if marked is not None:
            return entry if marked.sha256 == entry.sha256_in else None
        return entry if newest.outcome == Outcome.COMPRESSED else None

    def _without_original(
        self, path: str, folder: Folder, relative: str, moved: Entry | None
    ) -> UsageError:
        """Why a path cannot be restored: no row and no mark leads to an archived original."""
        marked = read_marks(folder.root, relative)
        newest = moved or self._ledger.files.find(folder.root, relative)
        versions = self._list_versions(folder, relative, moved)
        if versions and not (newest is not None and newest.outcome == Outcome.RESTORED):
            is_what = (
                "is not lensd's output"
                if marked is None
                else "is the output of an original that the archive does not have"
            )
            return UsageError(
                f"{path} {is_what}. The archive has originals that the path had before; choose one "
                f"by --version: {_join(versions)}"
            )
        if marked is None and newest is not None and _is_original(newest):
            what = "restored it" if newest.outcome == Outcome.RESTORED else "has not compressed it"
            return UsageError(f"{path} is the original itself, since lensd {what}")
        return UsageError(
            f"the archive has no original of {path}; `lensd restore --list` shows what it has"
        )

    def _rebuild(self) -> None:
        """Folders that the ledger does not know get their rows from marks and archive layout."""
        for folder in self._folders:
            with contextlib.suppress(OSError):
                rebuild(folder, self._ledger, self._archive, self._log)

    def _find_moved(self, folder: Folder, relative: str) -> Entry | None:
        """The row of an output that was moved to this path, if the row has another path."""
        try:
            identity = Identity.of(os.lstat(os.path.join(folder.root, relative)))
        except OSError:
            return None
        key = Key(folder.root, relative)
        if self._ledger.files.knows(*key, identity) is not None:
            known = self._ledger.files.find(*key)
            if known is None or known.outcome != Outcome.OUTPUT:
                return None
        entry = self._move_tracker.origin(key, identity) or self._move_tracker.origin_of_output(key)
        return entry if entry is not None and entry.outcome == Outcome.COMPRESSED else None

    def _find_by_marks(
        self, folder: Folder, relative: str, *, search: bool = True
    ) -> Original | None:
        """The original that the marks of an output name: the output has no row, or is a copy.

        `search`: also where no row names it, which reads all originals of its size.
        """
        marked = read_marks(folder.root, relative)
        if marked is None:
            return None
        path = self._archive.originals.locate(folder.name, relative, marked.sha256)
        if path is not None:
            return Original(folder, relative, marked.sha256, path, None)
        for entry in self._ledger.originals.find(marked.sha256):
            path = entry.archive_path
            if path is not None and os.path.lexists(path):
                return Original(folder, relative, marked.sha256, path, entry, is_shared=True)
        # It left the archive for another file; or the ledger was lost, and the row of that file.
        path = self._find_restored(marked.sha256)
        if path is None and search and marked.bytes_in is not None:
            path = self._archive.originals.search(marked.sha256, marked.bytes_in)
        if path is None:
            return None
        return Original(folder, relative, marked.sha256, path, None, is_shared=True)

    def _find_restored(self, sha256: str) -> str | None:
        """The path of a file that is this original since it was restored."""
        for entry in self._ledger.originals.rows_of(sha256):
            is_restored = entry.outcome == Outcome.RESTORED and has_file(entry)
            if is_restored and os.path.lexists(entry.full_path):
                return entry.full_path
        return None

    def _find_version(
        self, folder: Folder, relative: str, version: str, moved: Entry | None
    ) -> Original:
        known = self._list_versions(folder, relative, moved)
        found = [(sha, path) for sha, path in known.items() if sha.startswith(version.lower())]
        if len(found) != 1:
            count = "no version" if not found else "more than one version"
            raise UsageError(
                f"{version!r} fits {count} of {relative}; the archive has: {_join(known)}"
            )
        entry = moved or self._ledger.files.find(folder.root, relative)
        return Original(folder, relative, *found[0], entry, is_version=True)

    def _list_versions(self, folder: Folder, relative: str, moved: Entry | None) -> dict[str, str]:
        """The archive paths of all originals of a path, by sha256."""
        known = dict(self._archive.originals.versions(folder.name, relative))
        history = self._ledger.files.history(folder.root, relative)
        if moved is not None:
            history = [*self._ledger.files.history(moved.root, moved.path), *history]
        for entry in reversed(history):
            if entry.sha256_in and entry.archive_path and os.path.lexists(entry.archive_path):
                known[entry.sha256_in] = entry.archive_path
        return known


def original_of_entry(archive: Archive, folder: Folder, relative: str, entry: Entry) -> Original:
    """The original of a row whose output is at `relative` now."""
    sha256, path = entry.sha256_in or "", entry.archive_path or ""
    # A crash came between a step in the archive and the ledger; or an older lensd moved the
    # original aside for one whose name differs in case only.
    if not os.path.lexists(path) or archive.originals.is_ambiguous(entry.watch, entry.path, sha256):
        path = archive.originals.locate(entry.watch, entry.path, sha256) or path
    return Original(folder, relative, sha256, path, entry)


def _has_original(entry: Entry) -> bool:
    return entry.outcome == Outcome.COMPRESSED and entry.archive_path is not None


def _join(sha256s: Iterable[str]) -> str:
    return ", ".join(sha256[:12] for sha256 in sha256s) or "none"
