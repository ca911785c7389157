"""Copies of outputs: they have no original of their own, and their marks name that of another."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping

from lensd.jobs.originals import Original
from lensd.store.ledger import Ledger, Outcome
from lensd.watcher.move_tracker import MoveTracker
from lensd.watcher.own_output import read_marks
from lensd.watcher.settle import Key

# Of files that may be outputs although they are no output of their row: found like that by the
# intake or the first look at a folder, or refused before their header was read (hard links).
_OUTCOMES = (
    Outcome.OUTPUT,
    Outcome.BASELINE,
    Outcome.SKIPPED,
    Outcome.FAILED,
    Outcome.QUARANTINED,
)


def find_copies(
    ledger: Ledger, move_tracker: MoveTracker, closed: Collection[str] = ()
) -> dict[str, str]:
    """The sha256 of each original that such an output names, and the full path of one of these.

    Also of files that came or moved while no daemon ran. `closed`: the roots that may not be read.
    """
    found: dict[str, str] = {}
    for key in _places(ledger, move_tracker):
        marked = None if key.root in closed else read_marks(*key)
        if marked is None:
            continue
        current = ledger.files.current(*key)
        if current is None or current.sha256_in != marked.sha256:
            found.setdefault(marked.sha256, os.path.join(*key))
    return found


def known_copies(ledger: Ledger) -> dict[str, set[Key]]:
    """The outputs of the intake's rows that are copies, by the sha256 of the originals.

    One header is read for each such row, so this is for a whole request.
    """
    found: dict[str, set[Key]] = {}
    for entry in ledger.files.with_outcome(Outcome.OUTPUT):
        marked = read_marks(entry.root, entry.path)
        if marked is not None:
            found.setdefault(marked.sha256, set()).add(Key(entry.root, entry.path))
    return found


def is_needed(original: Original, copies: Mapping[str, set[Key]]) -> bool:
    """Whether the archive has to keep an original that is restored, for a copy of its output.

    A copy that is restored has got an original of its own. `copies`: see `known_copies`.
    """
    own = Key(original.folder.root, original.relative)
    return not original.is_shared and bool(copies.get(original.sha256, set()) - {own})


def _places(ledger: Ledger, move_tracker: MoveTracker) -> Iterator[Key]:
    for entry in ledger.files.with_outcome(*_OUTCOMES):
        yield Key(entry.root, entry.path)
    for key, _ in move_tracker.unknown_files():
        yield key
