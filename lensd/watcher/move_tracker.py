"""Files that were renamed or moved keep their rows: nothing is done twice, nothing is forgotten.

A row follows when its old path does not hold its file any more and another path does: the same
inode with the same size and time of change, or an output whose marks name the row's original. A
second name or a copy takes nothing away from the first. The archived original goes along, so that
the archive keeps mirroring the folders; at any time `archive_path` in the ledger is true.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from enum import Enum

from lensd.errors import FileError, StorageError
from lensd.logs.events import FileMoved
from lensd.store.archive import Archive
from lensd.store.fs import identity_at, open_folder
from lensd.store.identity import Identity
from lensd.store.ledger import Columns, JobState, Ledger, Outcome
from lensd.store.ledger.entry import Entry
from lensd.store.ledger.notes import RenamingOriginal
from lensd.watcher.folder import Folder, Log
from lensd.watcher.own_output import read_marks
from lensd.watcher.scan import scan
from lensd.watcher.settle import Key

NOWHERE_SECONDS = 60.0


class Found(Enum):
    """What a path is that the ledger does not know."""

    FOLLOWED = "followed"  # a row followed: the path is known now
    BUSY = "busy"  # the file of a running job, which will see to it itself
    NEW = "new"


class MoveTracker:
    """Lets rows follow their files.

    A ledger has one tracker, which the main loop and the job thread share: only one move at a time
    has the note that a restart after a crash reads, and the lock is the tracker's.
    """

    def __init__(
        self, folders: Sequence[Folder], ledger: Ledger, archive: Archive, log: Log
    ) -> None:
        self._folders = {f.root: f for f in folders}
        self._ledger = ledger
        self._archive = archive
        self._log = log
        self._lock = threading.Lock()
        self._nowhere: dict[str, float] = {}  # jobs whose files a search did not find, and when

    def look(self, key: Key, identity: Identity) -> Found:
        """A path that the ledger does not know: whether a known file has moved there."""
        entry = self.origin(key, identity)
        if entry is None:
            return Found.NEW
        if entry.state not in (JobState.QUEUED, JobState.DONE):
            return Found.BUSY
        return Found.FOLLOWED if self.move(entry, key) else Found.BUSY

    def look_at_output(self, key: Key) -> Found:
        """An output that no row has by its inode: moved across disks, or copied and deleted."""
        entry = self.origin_of_output(key)
        if entry is None:
            return Found.NEW
        return Found.FOLLOWED if self.move(entry, key) else Found.BUSY

    def look_at_unknown(self, key: Key, identity: Identity, *, lost: bool) -> Found:
        """Both of the above, for a path that will not be looked at again.

        `lost`: what `misses_outputs` said, which looks at every output.
        """
        found = self.look(key, identity)
        return self.look_at_output(key) if found is Found.NEW and lost else found

    def misses_outputs(self) -> bool:
        """Whether an output lies nowhere where the ledger knows of it."""
        return any(_is_lost(e) for e in self._ledger.files.with_outcome(Outcome.COMPRESSED))

    def origin(self, key: Key, identity: Identity) -> Entry | None:
        """The row whose file has moved here, by its inode."""
        for entry in self._ledger.files.same_file(identity):
            here = (entry.root, entry.path) == key
            if not here and _same_disk(entry, identity) and not _holds(entry):
                return entry
        return None

    def origin_of_output(self, key: Key) -> Entry | None:
        """The row whose output has moved here, by the marks in it."""
        marked = read_marks(*key)
        if marked is None:
            return None
        for entry in self._ledger.originals.find(marked.sha256):
            settled = entry.state == JobState.QUEUED or entry.outcome in (
                Outcome.COMPRESSED,
                Outcome.SUPERSEDED,
            )
            elsewhere = (entry.root, entry.path) != key
            if settled and elsewhere and not entry.redo and _is_lost(entry):
                return entry
        return None

    def plan(self) -> Iterator[tuple[Entry, Key]]:
        """The moves that nobody has noted yet, by a look through all folders. Changes nothing."""
        lost = self.misses_outputs()
        for key, identity in self._files():
            if not self._ledger.files.knows(*key, identity):
                entry = self.origin(key, identity)
                if entry is None and lost:
                    entry = self.origin_of_output(key)
                if entry is not None and entry.state in (JobState.QUEUED, JobState.DONE):
                    yield entry, key

    def search(self, entry: Entry) -> bool:
        """A job's path does not hold its file: True if it goes on under another name.

        One walk through the folders looks for the files of all jobs that are gone.
        """
        if _holds_inode(entry):
            return False
        with self._lock:
            searched = self._nowhere.get(entry.job_id, -math.inf)
        if time.monotonic() - searched < NOWHERE_SECONDS:
            return False
        lost = [
            e
            for e in self._ledger.jobs.unfinished()
            if e.state == JobState.QUEUED and not _holds(e)
        ]
        wanted = {e.identity[1:4]: e for e in (*lost, entry)}
        for key, identity in self._files():
            found = wanted.get(identity[1:4])
            elsewhere = found is not None and key != (found.root, found.path)
            if found is not None and elsewhere and _same_disk(found, identity):
                self.move(found, key, mine=found.job_id == entry.job_id)
                del wanted[identity[1:4]]
        now = time.monotonic()
        with self._lock:
            self._nowhere = {e.job_id: now for e in wanted.values()}
        after = self._ledger.jobs.get(entry.job_id)
        return (after.root, after.path) != (entry.root, entry.path)

    def move(self, entry: Entry, key: Key, *, mine: bool = False) -> bool:
        """Let a row follow to another path. False if it has moved already, or cannot now.

        A job that has begun goes on in the runner's thread, and by that (`mine`) alone is it moved.
        """
        watch = self._folders[key.root].name
        with self._lock:
            now = self._ledger.jobs.get(entry.job_id)  # a move just before may have changed it
            if (now.root, now.path) != (entry.root, entry.path) or self._is_busy(now):
                return False
            if now.state not in (JobState.QUEUED, JobState.DONE) and not mine:
                return False
            entry = now
            columns = self._output_columns(entry, key)
            if self._takes_link_back(entry, key) and not entry.redo:
                columns["archive_path"] = None
            old = self._give_new_name(entry, watch, key.path)
            moved = self._ledger.files.move(entry, key.root, watch, key.path, **columns)
            self._drop_old_name(old)
        if moved:
            self._log(
                FileMoved(
                    path=os.path.join(*key),
                    watch=watch,
                    job_id=entry.job_id,
                    from_path=entry.full_path,
                )
            )
        return moved

    def finish_interrupted_move(self) -> None:
        """After a crash between two steps of `move`: an original keeps one name of its two."""
        renaming = self._ledger.state.renaming_original.get()
        if renaming is None:
            return
        old, new = renaming
        if _same_inode(old, new):
            with suppress(StorageError):  # archive.path was changed: both names stay in the old one
                self._archive.drop_name(new if self._ledger.originals.at(old) else old)
        elif not os.path.lexists(old) and os.path.lexists(new):  # a disk without hard links
            for entry in self._ledger.originals.at(old):
                self._ledger.originals.record_moved(old, new, entry.sha256_in or "")
        self._ledger.state.renaming_original.clear()

    def _is_busy(self, entry: Entry) -> bool:
        """Whether another file's job works under the old path: it may archive there just now."""
        history = self._ledger.files.history(entry.root, entry.path)
        under_way = (e for e in history if e.state not in (JobState.QUEUED, JobState.DONE))
        return any(e.job_id != entry.job_id for e in under_way)

    def _files(self) -> Iterator[tuple[Key, Identity]]:
        for folder in self._folders.values():
            try:
                for path, identity in scan(
                    folder.root, recursive=folder.recursive, selects=folder.selects
                ):
                    yield Key(folder.root, path), identity
            except OSError:  # not there now: degraded, never empty
                continue

    def _output_columns(self, entry: Entry, key: Key) -> Columns:
        """An output whose publishing a crash kept from the ledger is compressed all the same."""
        if entry.outcome not in (Outcome.COMPRESSED, Outcome.REPLACED, Outcome.SUPERSEDED, None):
            return {}
        marked = read_marks(*key)
        if marked is None or marked.sha256 != entry.sha256_in or entry.redo:
            return {}
        return {
            "state": JobState.DONE,
            "outcome": Outcome.COMPRESSED,
            "staged": marked.identity,
            "bytes_out": marked.identity.size,
        }

    def _takes_link_back(self, entry: Entry, key: Key) -> bool:
        """What the job under the old name had archived must not make the file look hard-linked."""
        try:
            there = Identity.of(os.lstat(os.path.join(*key)))
        except OSError:
            return False
        return self._archive.remove_link(entry.watch, entry.path, there)

    def _give_new_name(self, entry: Entry, watch: str, relative: str) -> str | None:
        """Let the archived original mirror the new path; returns its old name, still to be dropped.

        Where that fails it stays where it is, and the ledger says so.
        """
        old, sha256 = entry.archive_path, entry.sha256_in
        if old is None or sha256 is None or entry.outcome == Outcome.RESTORED:
            return None
        new = self._archive.path_for(watch, relative)
        if old == new:
            return None
        self._ledger.state.renaming_original.set(RenamingOriginal(old, new))
        try:
            new, displaced = self._archive.add_name(old, watch, relative)
        except (FileError, StorageError, OSError):
            self._ledger.state.renaming_original.clear()
            return None
        if displaced is not None and displaced != sha256:
            aside = self._archive.version_path(displaced, watch, relative)
            self._ledger.originals.record_moved(new, aside, displaced)
        self._ledger.originals.record_moved(old, new, sha256)
        return old

    def _drop_old_name(self, old: str | None) -> None:
        if old is not None:
            self._archive.drop_name(old)
            self._ledger.state.renaming_original.clear()


def _holds(entry: Entry) -> bool:
    """Whether the row's path still has the row's file; also when that cannot be told."""
    found = _at(entry)
    return found is True or (isinstance(found, Identity) and entry.is_about(found))


def _holds_inode(entry: Entry) -> bool:
    found = _at(entry)
    return found is True or (isinstance(found, Identity) and found.inode == entry.identity.inode)


def _is_lost(entry: Entry) -> bool:
    """Whether the row's path has nothing at all, in a root that is there and not empty."""
    if _at(entry) is not None:
        return False
    try:
        with os.scandir(entry.root) as names:  # an unmounted root is an empty folder, or none
            return next(names, None) is not None
    except OSError:
        return False


def _at(entry: Entry) -> Identity | bool | None:
    """What lies under a row's path: None for nothing, True where that cannot be told."""
    folder, name = os.path.split(entry.path)
    try:
        folder_fd = open_folder(entry.root, folder)
    except (FileNotFoundError, NotADirectoryError, FileError):
        return None
    except OSError:
        return True
    try:
        return identity_at(folder_fd, name)
    except OSError:
        return True
    finally:
        os.close(folder_fd)


def _same_disk(entry: Entry, identity: Identity) -> bool:
    """Device numbers change with a boot: the old root may tell that it is the same disk."""
    if entry.present.device == identity.device:
        return True
    try:
        return os.stat(entry.root).st_dev == identity.device
    except OSError:
        return False


def _same_inode(a: str, b: str) -> bool:
    try:
        return Identity.of(os.lstat(a)).same_inode(Identity.of(os.lstat(b)))
    except OSError:
        return False


def newest(moves: Iterable[tuple[Entry, Key]]) -> dict[str, Key]:
    """Planned moves by job; each row goes to the first path that was found for it."""
    chosen: dict[str, Key] = {}
    for entry, key in moves:
        chosen.setdefault(entry.job_id, key)
    return chosen
