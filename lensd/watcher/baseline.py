"""The first look at a folder: its files become rows of the ledger, and not jobs of their own."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from functools import cache, partial

from lensd.store.identity import Identity
from lensd.store.ledger import Ledger
from lensd.store.walk import walk
from lensd.watcher.folder import Folder
from lensd.watcher.move_tracker import Found, MoveTracker
from lensd.watcher.one_file import contain_bug, record_each
from lensd.watcher.scan import in_batches, scan
from lensd.watcher.settle import Key


def list_files(folder: Folder, progress: Callable[[], None] = lambda: None) -> set[str]:
    """The relative paths of the files that are in a folder now.

    `progress` is called for each folder. Raises OSError when the root cannot be read.
    """
    paths: set[str] = set()
    for at in walk(folder.root, recursive=folder.recursive, wanted=lambda p, _: folder.selects(p)):
        progress()
        paths.update(at.path + name for name in at.names)
    return paths


def record_baseline(
    folder: Folder,
    ledger: Ledger,
    move_tracker: MoveTracker,
    progress: Callable[[], None] = lambda: None,
    *,
    there: Container[str] | None = None,
) -> tuple[int, int] | None:
    """Record a folder that the ledger sees for the first time; None if the ledger knows it.

    Returns the number of the files that are left alone (`existing: leave`), and their bytes.
    `there`: the paths of the files that were in the folder before; the others are new. By default
    all were. `progress` is called again and again meanwhile. Raises OSError when the folder cannot
    be read.
    """
    if ledger.roots.knows(folder.root):
        return None

    def is_left(path: str) -> bool:
        return folder.existing == "leave" and (there is None or path in there)

    files = size = 0
    for unknown in _unknown_files(folder, ledger, move_tracker, progress):
        left = record_each(
            [file for file in unknown if is_left(file[0])],
            partial(ledger.files.record_baseline, folder.root, folder.name),
            lambda file: move_tracker.report_bug(Key(folder.root, file[0])),
        )
        files += len(left)
        size += sum(identity.size for _, identity in left)
    ledger.roots.add(folder.root, folder.name)
    return files, size


def _unknown_files(
    folder: Folder, ledger: Ledger, move_tracker: MoveTracker, progress: Callable[[], None]
) -> Iterator[list[tuple[str, Identity]]]:
    """Files, up to BATCH at a time, that have no row here and did not move here."""
    has_lost_outputs = cache(move_tracker.has_lost_outputs)  # it looks at every output

    def is_new(path: str, identity: Identity) -> bool:
        key = Key(folder.root, path)
        found = Found.NEW  # also after a bug
        with contain_bug(partial(move_tracker.report_bug, key)):
            found = move_tracker.follow_file(key, identity)
            if found is Found.NEW and has_lost_outputs():
                found = move_tracker.follow_output(key)
        return found is Found.NEW

    found = scan(folder.root, recursive=folder.recursive, selects=folder.selects)
    for batch in in_batches(found):
        progress()
        yield [file for file in ledger.files.unknown(folder.root, batch) if is_new(*file)]
