"""Copies of outputs: they have no original of their own, and their marks name that of another."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator

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
    for key in _places(ledger, move_tracker, _OUTCOMES):
        marked = None if key.root in closed else read_marks(*key)
        if marked is None:
            continue
        current = ledger.files.current(*key)
        if current is None or current.sha256_in != marked.sha256:
            found.setdefault(marked.sha256, os.path.join(*key))
    return found


class KnownCopies:
    """The outputs that the intake took for copies, or has not seen, by their originals.

    One header is read for each of these files, so this is for a whole request.
    """

    def __init__(self, ledger: Ledger, move_tracker: MoveTracker) -> None:
        self._of_original: dict[str, set[Key]] = {}
        for key in _places(ledger, move_tracker, [Outcome.OUTPUT]):
            marked = read_marks(*key)
            if marked is not None:
                self._of_original.setdefault(marked.sha256, set()).add(key)

    def need(self, original: Original) -> bool:
        """Whether the archive has to keep an original that is restored, for a copy of its output.

        A copy that is restored has got an original of its own.
        """
        others = self._of_original.get(original.sha256, set()) - {_key(original)}
        return bool(others) and not original.is_shared

    def remove(self, original: Original) -> None:
        """A file that was restored is no copy any more."""
        self._of_original.get(original.sha256, set()).discard(_key(original))


def _key(original: Original) -> Key:
    return Key(original.folder.root, original.relative)


def _places(
    ledger: Ledger, move_tracker: MoveTracker, outcomes: Collection[Outcome]
) -> Iterator[Key]:
    for entry in ledger.files.with_outcome(*outcomes):
        yield Key(entry.root, entry.path)
    for key, _ in move_tracker.unknown_files():
        yield key
