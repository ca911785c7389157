"""Chooses the originals that a person names, or whose files were deleted. Changes nothing."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase

from lensd.errors import UsageError
from lensd.jobs.restoring import is_there
from lensd.store.ledger import Ledger, Outcome
from lensd.store.ledger.entry import Entry
from lensd.store.paths import is_below, resolve_path
from lensd.watcher.move_tracker import MoveTracker
from lensd.watcher.own_output import read_marks
from lensd.watcher.presence import is_lost


class PruneChoice:
    """`closed`: the watched folders that may not be read now."""

    def __init__(
        self, ledger: Ledger, move_tracker: MoveTracker, closed: Collection[str] = ()
    ) -> None:
        self._ledger = ledger
        self._move_tracker = move_tracker
        self._closed = closed

    def choose(self, paths: Sequence[str], *, deleted: bool) -> list[Entry]:
        """Rows with an archived original, oldest first. Raises UsageError for a path without any.

        Without `paths` all rows; with `deleted` only those whose file was deleted.
        """
        outcomes = Outcome.COMPRESSED, Outcome.REPLACED
        rows = [e for e in self._ledger.files.with_outcome(*outcomes) if e.archive_path is not None]
        if paths:
            rows = _select(rows, paths)
        return self._select_deleted(rows, by_path=bool(paths)) if deleted else rows

    def _select_deleted(self, rows: Sequence[Entry], *, by_path: bool) -> list[Entry]:
        there = {root: self._is_there(root) for root in {row.root for row in rows}}
        lost = [e for e in rows if there[e.root] and is_lost(e) and (by_path or _was_here(e))]
        if not lost:
            return []
        moved = {entry.job_id for entry, _ in self._move_tracker.plan()}
        copied = self._originals_of_copies()
        return [e for e in lost if e.job_id not in moved and e.sha256_in not in copied]

    def _is_there(self, root: str) -> bool:
        return root not in self._closed and is_there(self._ledger, root)

    def _originals_of_copies(self) -> set[str]:
        """The originals of outputs that were copied: these have no original of their own."""
        copies = self._ledger.files.with_outcome(Outcome.OUTPUT)
        marks = (read_marks(entry.root, entry.path) for entry in copies)
        return {marked.sha256 for marked in marks if marked is not None}


def _select(rows: Sequence[Entry], paths: Sequence[str]) -> list[Entry]:
    found: dict[str, Entry] = {}
    for path in paths:
        resolved = resolve_path(path)
        is_pattern = not os.path.lexists(resolved) and any(sign in path for sign in "*?[")
        named = [
            row
            for row in rows
            if is_below(row.full_path, resolved)
            or (is_pattern and fnmatchcase(row.full_path, resolved))
        ]
        if not named:
            raise UsageError(
                f"the archive has no originals of {path}; `lensd restore --list` shows what it has"
            )
        found |= {row.job_id: row for row in named}
    return list(found.values())


def _was_here(entry: Entry) -> bool:
    """Whether the file lay on the disk that its folder lies on now, so that no disk is away."""
    folder = os.path.dirname(entry.full_path)
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    return os.stat(folder).st_dev == entry.present.device
