"""Chooses the originals that a person names, or whose files were deleted. Changes nothing."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from operator import attrgetter

from lensd.errors import UsageError
from lensd.jobs.restoring import is_there
from lensd.store.ledger import Ledger, Outcome
from lensd.store.ledger.entry import Entry
from lensd.store.ledger.gone import Place
from lensd.store.paths import matcher_of
from lensd.watcher.presence import is_lost
from lensd.watcher.settle import Key


class PruneChoice:
    """`closed`: the watched folders that may not be read now.

    `moved`: the new path of each job's file that has moved, where the ledger does not have it yet.
    `copies`: the originals that other outputs name (`copies.find_copies`).
    """

    def __init__(
        self,
        ledger: Ledger,
        moved: Mapping[str, Key],
        copies: Collection[str],
        closed: Collection[str] = (),
    ) -> None:
        self._ledger = ledger
        self._moved = moved
        self._copies = copies
        self._closed = closed

    def choose(self, paths: Sequence[str], *, deleted: bool) -> list[Entry]:
        """Rows with an archived original, oldest first, without their log lines.

        Without `paths` all rows; with `deleted` only those whose file was deleted. Raises
        UsageError for a path without any.
        """
        outcomes = Outcome.COMPRESSED, Outcome.REPLACED
        places = (p for p in self._ledger.gone.places(*outcomes) if p.archive_path is not None)
        chosen = self._select(places, paths) if paths else places
        if deleted:
            return self._select_deleted(chosen, by_path=bool(paths))
        return self._read_rows(chosen)

    def _select_deleted(self, places: Iterable[Place], *, by_path: bool) -> list[Entry]:
        """One stat shows that a file is there, as nearly all are."""
        there = cache(self._is_there)
        gone = (p for p in places if there(p.root) and not os.path.lexists(p.full_path))
        lost = [e for e in self._read_rows(filter(is_lost, gone)) if by_path or _was_here(e)]
        return [e for e in lost if e.job_id not in self._moved and e.sha256_in not in self._copies]

    def _read_rows(self, places: Iterable[Place]) -> list[Entry]:
        rows = (self._ledger.files.by_job(place.job_id) for place in places)
        light = [replace(e, line=None) for e in rows if e]  # of many files, lines need a gigabyte
        return sorted(light, key=attrgetter("number"))

    def _is_there(self, root: str) -> bool:
        return root not in self._closed and is_there(self._ledger, root)

    def _select(self, places: Iterable[Place], paths: Sequence[str]) -> list[Place]:
        """The places at or below one of the paths, or of one of these patterns."""
        found: list[Place] = []
        left = {path: matcher_of(path) for path in paths}  # paths without a place so far
        matchers = tuple(left.values())
        for place in places:
            new = self._moved.get(place.job_id)
            full = place.full_path if new is None else os.path.join(*new)
            if any(matches(full) for matches in matchers):
                found.append(place)
                left = {path: matches for path, matches in left.items() if not matches(full)}
        for path in left:
            raise UsageError(
                f"the archive has no originals of {path}; `lensd restore --list` shows what it has"
            )
        return found


def _was_here(entry: Entry) -> bool:
    """Whether the file lay on the disk that its folder lies on now, so that no disk is away."""
    folder = os.path.dirname(entry.full_path)
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    return os.stat(folder).st_dev == entry.present.device
