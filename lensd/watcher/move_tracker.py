"""Files that were renamed or moved keep their rows in the ledger, so that no file is done twice.

A row follows when its old path does not have its file any more and another path does: the same
inode with the same size and mtime, or an output whose marks name the row's original. The row does
not follow to a second name or a copy of a file that is still there. The archived original gets the
name that mirrors the new path; `archive_path` in the ledger is true at any time.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import Enum
from functools import partial
from itertools import groupby

from lensd.logs.events import FileMoved
from lensd.store.archive import Archive
from lensd.store.identity import Identity
from lensd.store.ledger import Columns, JobState, Ledger, Outcome
from lensd.store.ledger.entry import Entry
from lensd.watcher.folder import Folder, Log
from lensd.watcher.one_file import contain_bug, report_bug
from lensd.watcher.original_renamer import OriginalRenamer
from lensd.watcher.own_output import Marked, names_another, read_marks
from lensd.watcher.presence import has_file, has_inode, is_lost, is_same_disk
from lensd.watcher.scan import in_batches, scan
from lensd.watcher.settle import Key

SEARCH_AGAIN_SECONDS = 60.0
_AT_REST = (JobState.QUEUED, JobState.DONE)


class Found(Enum):
    """What a path is that the ledger does not know."""

    FOLLOWED = "followed"  # a row followed: the ledger knows the path now
    BUSY = "busy"  # the file of a job under way, which moves its row itself
    NEW = "new"


class MoveTracker:
    """Lets rows follow their files.

    A ledger has one tracker, which the main loop and the job thread share. Its lock lets only one
    move happen at a time, since the ledger has one note for a restart after a crash.
    """

    def __init__(
        self,
        folders: Sequence[Folder],
        ledger: Ledger,
        archive: Archive,
        log: Log,
        answers: Callable[[str], bool] = lambda _: True,
    ) -> None:
        """`answers(root)`: whether a look at another root does not hang."""
        self._answers = answers
        self._folders = {f.root: f for f in folders}
        self._ledger = ledger
        self._archive = archive
        self._log = log
        self._lock = threading.Lock()
        self._renamer = OriginalRenamer(ledger, archive)
        self._searched: dict[str, float] = {}  # jobs whose files a search did not find, and when

    def finish_interrupted_move(self) -> None:
        """After a crash between two steps of `move`: an original keeps one name of its two."""
        with self._lock:
            self._renamer.finish_interrupted()

    def follow_file(self, key: Key, identity: Identity) -> Found:
        """Let a row follow to a path that the ledger does not know, if its file has moved there."""
        entry = self.origin(key, identity)
        if entry is None:
            return Found.NEW
        if entry.state not in _AT_REST:
            return Found.BUSY
        return Found.FOLLOWED if self.move(entry, key) else Found.BUSY

    def follow_output(self, key: Key) -> Found:
        """As `follow_file`, for an output with another inode: it was moved across disks, or copied
        and deleted.
        """
        entry = self.origin_of_output(key)
        if entry is None:
            return Found.NEW
        return Found.FOLLOWED if self.move(entry, key) else Found.BUSY

    def has_lost_outputs(self) -> bool:
        """Whether an output is missing where the ledger has it. Looks at every output."""
        outputs = self._ledger.gone.places(Outcome.COMPRESSED)
        return any(self._answers(place.root) and is_lost(place) for place in outputs)

    def origin(self, key: Key, identity: Identity) -> Entry | None:
        """The row whose file has moved to a path, by its inode."""
        for entry in self._ledger.files.same_file(identity):
            if (entry.root, entry.path) == key or not self._may_look(entry, key):
                continue
            if is_same_disk(entry, identity) and not has_file(entry):
                # A copy of another output may have got the inode of a deleted one.
                is_output = entry.present == entry.staged
                if not (is_output and names_another(*key, entry.sha256_in)):
                    return entry
        return None

    def origin_of_output(self, key: Key) -> Entry | None:
        """The row whose output has moved to a path, by its marks."""
        marked = read_marks(*key)
        if marked is None:
            return None
        for entry in self._ledger.originals.find(marked.sha256):
            is_settled = entry.state == JobState.QUEUED or entry.outcome in (
                Outcome.COMPRESSED,
                Outcome.SUPERSEDED,
            )
            if (entry.root, entry.path) == key or not self._may_look(entry, key):
                continue
            if is_settled and not entry.redo and is_lost(entry):
                return entry
        return None

    def _may_look(self, entry: Entry, key: Key) -> bool:
        return entry.root == key.root or self._answers(entry.root)

    def plan(self) -> Iterator[tuple[Entry, Key]]:
        """The moves that are not in the ledger yet, by a scan of all folders. Changes nothing."""
        has_lost_outputs = self.has_lost_outputs()
        for key, identity in self.unknown_files():
            entry = None
            with contain_bug(partial(self.report_bug, key)):
                entry = self._plan(key, identity, has_lost_outputs=has_lost_outputs)
            if entry is not None and entry.state in _AT_REST:
                yield entry, key

    def follow_all(self) -> None:
        """Let the rows of files that were moved while lensd did not run follow them."""
        for entry, key in list(self.plan()):
            with contain_bug(partial(self.report_bug, key)):
                self.move(entry, key)

    def unknown_files(self) -> Iterator[tuple[Key, Identity]]:
        """Those of a scan that have no row, or a damaged one: many files need few queries."""
        for root, found in groupby(self._scan_all(), key=lambda file: file[0].root):
            for batch in in_batches((key.path, identity) for key, identity in found):
                for path, identity in self._ledger.files.unknown(root, batch):
                    yield Key(root, path), identity

    def _plan(self, key: Key, identity: Identity, *, has_lost_outputs: bool) -> Entry | None:
        if self._ledger.files.knows(*key, identity):
            return None
        entry = self.origin(key, identity)
        if entry is None and has_lost_outputs:
            return self.origin_of_output(key)
        return entry

    def report_bug(self, key: Key) -> None:
        """Log the exception that is being handled as the end of one file."""
        report_bug(self._log, self._folders[key.root], key.path)

    def search(self, entry: Entry) -> bool:
        """The path of the caller's job has not its file: True if it goes on under another path.

        One scan of all folders looks for the files of all queued jobs that are not in place.
        """
        if has_inode(entry):
            return False
        with self._lock:
            searched = self._searched.get(entry.job_id, -math.inf)
        if time.monotonic() - searched < SEARCH_AGAIN_SECONDS:
            return False
        queued = (e for e in self._ledger.jobs.unfinished() if e.state == JobState.QUEUED)
        wanted = {e.identity[1:4]: e for e in queued if not has_file(e)}
        wanted[entry.identity[1:4]] = entry
        for key, identity in self._scan_all():
            found = wanted.get(identity[1:4])
            if found is None or key == (found.root, found.path):
                continue
            if is_same_disk(found, identity):
                self.move(found, key, is_own_job=found.job_id == entry.job_id)
                del wanted[identity[1:4]]
        now = time.monotonic()
        with self._lock:
            self._searched = {e.job_id: now for e in wanted.values()}
        after = self._ledger.jobs.get(entry.job_id)
        return (after.root, after.path) != (entry.root, entry.path)

    def move(self, entry: Entry, key: Key, *, is_own_job: bool = False) -> bool:
        """Let a row follow to another path. False if it has moved already, or cannot now.

        Only the job thread moves the row of a job that has begun (`is_own_job`).
        """
        watch = self._folders[key.root].name
        # Before the lock: the folder may hang, and the other roots need the lock.
        marked, identity = read_marks(*key), _identity_at(key)
        with self._lock:
            now = self._ledger.jobs.get(entry.job_id)  # another move may have changed it
            if (now.root, now.path) != (entry.root, entry.path) or self._is_path_busy(now):
                return False
            if now.state not in _AT_REST and not is_own_job:
                return False
            entry = now
            columns = _output_columns(entry, marked)
            if self._remove_own_link(entry, identity) and not entry.redo:
                columns["archive_path"] = None
            old = self._renamer.add_new_name(entry, watch, key.path)
            has_moved = self._ledger.files.move(entry, key.root, watch, key.path, **columns)
            self._renamer.drop_old_name(old)
        if has_moved:
            self._log(
                FileMoved(
                    path=os.path.join(*key),
                    watch=watch,
                    job_id=entry.job_id,
                    from_path=entry.full_path,
                )
            )
        return has_moved

    def _is_path_busy(self, entry: Entry) -> bool:
        """Whether a job of another file is under way at the row's path: it may archive there."""
        history = self._ledger.files.history(entry.root, entry.path)
        return any(e.job_id != entry.job_id for e in history if e.state not in _AT_REST)

    def _scan_all(self) -> Iterator[tuple[Key, Identity]]:
        for folder in self._folders.values():
            if not self._answers(folder.root):
                continue
            found = scan(folder.root, recursive=folder.recursive, selects=folder.selects)
            try:
                for path, identity in found:
                    yield Key(folder.root, path), identity
            except OSError:  # the root is degraded, not empty
                continue

    def _remove_own_link(self, entry: Entry, found: Identity | None) -> bool:
        """Remove the link that a job archived under the old path: it is a second name of the file,
        which would then look hard-linked.
        """
        return found is not None and self._archive.remover.remove_link(
            entry.watch, entry.path, found
        )


def _output_columns(entry: Entry, marked: Marked | None) -> Columns:
    """Of an output that was published just before a crash: the row becomes `compressed`."""
    if entry.outcome not in (Outcome.COMPRESSED, Outcome.REPLACED, Outcome.SUPERSEDED, None):
        return {}
    if marked is None or marked.sha256 != entry.sha256_in or entry.redo:
        return {}
    return {
        "state": JobState.DONE,
        "outcome": Outcome.COMPRESSED,
        "staged": marked.identity,
        "bytes_out": marked.identity.size,
    }


def _identity_at(key: Key) -> Identity | None:
    try:
        return Identity.of(os.lstat(os.path.join(*key)))
    except OSError:
        return None


def choose_paths(moves: Iterable[tuple[Entry, Key]]) -> dict[str, Key]:
    """Planned moves by job; each row goes to the first path that was found for it."""
    chosen: dict[str, Key] = {}
    for entry, key in moves:
        chosen.setdefault(entry.job_id, key)
    return chosen
