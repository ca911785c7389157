"""A restore under way: the ledger's note of it, and how it ends, also after a crash.

The note comes first. What lies on the disk then says whether the original got its name
(`restore_decision`): the restore is completed, or it is taken back and the output stays.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator

from msgspec import UNSET

from lensd.errors import Skipped
from lensd.jobs import reread
from lensd.jobs.archive_check import hold_archive
from lensd.jobs.archived import has_original, remove_original
from lensd.jobs.originals import Original
from lensd.jobs.recover_decision import Content
from lensd.jobs.replaced import find_outputs
from lensd.jobs.reread import Held, Stop
from lensd.jobs.rescued import rescue_written
from lensd.jobs.restore_decision import Clearing, Facts, clear_temporary, is_complete
from lensd.logs.events import FileRestored
from lensd.store.archive import Archive
from lensd.store.fs import identity_at, open_folder, temporary_name
from lensd.store.identity import Identity
from lensd.store.ledger import Ledger, Outcome
from lensd.store.ledger.entry import Entry
from lensd.store.ledger.notes import Restoring
from lensd.store.publish import discard
from lensd.watcher import root_identity
from lensd.watcher.folder import Log


class Restores:
    """The notes of restores under way. Not for several threads at once."""

    def __init__(self, ledger: Ledger, archive: Archive, log: Log, quiet_seconds: float) -> None:
        self._ledger = ledger
        self._archive = archive
        self._log = log
        self._quiet_seconds = quiet_seconds

    def under_way(self) -> Iterator[tuple[Restoring, Entry]]:
        """Those that a crash or a fault of a disk cut off."""
        for restoring in self._ledger.state.restoring.get() or ():
            yield restoring, self._ledger.jobs.get(restoring.job_id)

    def begin(self, original: Original, output: Identity | None, *, purge: bool) -> Restoring:
        """Write the row and the note: after a crash the daemon must know the file as restored."""
        restoring = Restoring(secrets.token_hex(8), purge, output)
        archived = Identity.of(os.lstat(original.archive_path))
        with self._ledger.together():
            self._ledger.files.record(
                restoring.job_id,
                original.folder.root,
                original.folder.name,
                original.relative,
                archived,
                outcome=Outcome.RESTORED,
                staged=output,  # until then the intake knows it by this row
                sha256_in=original.sha256,
                bytes_in=archived.size,
                archive_path=original.archive_path,
            )
            self._note(restoring.job_id, restoring)
        return restoring

    def note_staged(self, restoring: Restoring, incoming: Identity, method: str) -> Restoring:
        """The original is complete under the temporary; the exchange is next."""
        staged = restoring._replace(incoming=incoming, method=method)
        with self._ledger.together():
            self._ledger.originals.record_incoming(restoring.job_id, incoming)
            self._note(restoring.job_id, staged)
        return staged

    def finish_interrupted(self, wanted: Callable[[str], bool], stop: Stop) -> None:
        """Complete or take back restores below wanted roots, whose disks are there.

        Raises FileError, StorageError, OSError, Interrupted where that is not possible now.
        """
        for restoring, entry in list(self.under_way()):
            if wanted(entry.root):
                self.finish(restoring, stop)

    def finish(
        self,
        restoring: Restoring,
        stop: Stop,
        *,
        output: Held | None = None,
        recovered: bool = True,
    ) -> None:
        """Complete one restore or take it back, as `finish_interrupted`.

        `output`: what it replaces, if that is held since it was read.
        """
        with hold_archive(self._archive, self._ledger):
            self._finish(restoring, stop, output, recovered=recovered)

    def _finish(
        self, restoring: Restoring, stop: Stop, output: Held | None, *, recovered: bool
    ) -> None:
        entry = self._ledger.jobs.get(restoring.job_id)
        try:
            folder_fd = open_folder(entry.root, os.path.dirname(entry.path))
        except (FileNotFoundError, Skipped):
            self._end(restoring, entry, None, is_done=not self._has_archived(entry))
            return
        try:
            facts = self._look(restoring, entry, folder_fd)
            self._clear(clear_temporary(facts), entry, folder_fd, stop, output)
            named = identity_at(folder_fd, os.path.basename(entry.path))
        finally:
            os.close(folder_fd)
        is_done = is_complete(facts)
        self._end(restoring, entry, named, is_done=is_done, recovered=recovered)

    def _look(self, restoring: Restoring, entry: Entry, folder_fd: int) -> Facts:
        return Facts(
            named=_content(restoring, identity_at(folder_fd, os.path.basename(entry.path))),
            temporary=_content(
                restoring, identity_at(folder_fd, temporary_of(restoring)), by_inode=True
            ),
            is_staged=restoring.incoming is not None,
            is_archived=self._has_archived(entry),
        )

    def _has_archived(self, entry: Entry) -> bool:
        return entry.archive_path is not None and has_original(self._archive, entry.archive_path)

    def _clear(
        self, clearing: Clearing, entry: Entry, folder_fd: int, stop: Stop, output: Held | None
    ) -> None:
        temporary = temporary_name(entry.job_id)
        if clearing is Clearing.UNLINK:
            there = identity_at(folder_fd, temporary)
            if there is not None:
                discard(folder_fd, temporary, there)
        elif clearing is Clearing.UNLINK_OUTPUT:
            if output is not None:
                is_gone = self._unlink_output(temporary, folder_fd, output, stop)
            else:
                is_gone = self._read_and_unlink_output(entry, folder_fd, stop)
            if not is_gone:
                self._rescue(entry, folder_fd)
        elif clearing is Clearing.RESCUE:
            self._rescue(entry, folder_fd)

    def _unlink_output(self, temporary: str, folder_fd: int, output: Held, stop: Stop) -> bool:
        """False: another program wrote to it, or wants to."""
        if not output.settle(self._quiet_seconds, stop):
            return False
        return discard(folder_fd, temporary, output.reading.identity)

    def _read_and_unlink_output(self, entry: Entry, folder_fd: int, stop: Stop) -> bool:
        """False also if it is not as lensd wrote it, or a program has it open for writing."""
        temporary = temporary_name(entry.job_id)
        try:
            with reread.hold_at(folder_fd, temporary, entry.full_path, stop) as output:
                outputs = find_outputs(self._ledger, output.reading.original)
                if output.reading.sha256 not in outputs:
                    return False
                return self._unlink_output(temporary, folder_fd, output, stop)
        except Skipped:
            return False

    def _rescue(self, entry: Entry, folder_fd: int) -> None:
        """Move the temporary to `rescued/`. Raises Skipped(`changed`), Failed, OSError."""
        temporary = temporary_name(entry.job_id)
        rescue_written(
            self._archive, self._log, entry, folder_fd, temporary, "restored its original"
        )

    def _end(
        self,
        restoring: Restoring,
        entry: Entry,
        named: Identity | None,
        *,
        is_done: bool,
        recovered: bool = True,
    ) -> None:
        """Write to the ledger that the original is back, or that nothing was restored."""
        if not is_done or restoring.incoming is None:
            with self._ledger.together():
                self._ledger.files.withdraw(restoring.job_id)
                self._note(restoring.job_id, None)
            return
        now = restoring.incoming
        if named is not None:
            is_same = named[2:4] == now[2:4]
            self._remove_archived(entry, named, purge=restoring.purge and is_same)
            now = named if is_same else now
        with self._ledger.together():
            self._ledger.originals.record_restored(
                entry.job_id, now, entry.archive_path or "", gone=not self._has_archived(entry)
            )
            self._note(restoring.job_id, None)
        self._log(
            FileRestored(
                path=entry.full_path,
                watch=entry.watch,
                job_id=entry.job_id,
                sha256=entry.sha256_in or "",
                method=restoring.method,
                bytes=restoring.incoming.size,
                recovered=recovered or UNSET,
            )
        )

    def _remove_archived(self, entry: Entry, named: Identity, *, purge: bool) -> None:
        """Remove the archive's name of a moved original, and with `purge` its copy."""
        path = entry.archive_path
        if path is None or not has_original(self._archive, path):
            return
        if Identity.of(os.lstat(path)).same_inode(named):
            remove_original(self._archive, path)
        elif purge:
            with reread.hold_original(self._archive, path) as copy:
                if copy.reading.sha256 == entry.sha256_in and copy.unbroken:
                    remove_original(self._archive, path)

    def _note(self, job_id: str, restoring: Restoring | None) -> None:
        notes = self._ledger.state.restoring
        others = tuple(r for r in notes.get() or () if r.job_id != job_id)
        notes.set((*others, restoring) if restoring else others)


def is_there(ledger: Ledger, root: str) -> bool:
    """Whether a watched folder is the one that the ledger knows: its disk is mounted."""
    try:
        found = root_identity.probe(root).identity
    except OSError:
        return False
    return root_identity.decide(ledger.roots.get_identity(root), found, lambda: False) is None


def temporary_of(restoring: Restoring) -> str:
    """The name of the temporary of a restore."""
    return temporary_name(restoring.job_id)


def _content(restoring: Restoring, found: Identity | None, *, by_inode: bool = False) -> Content:
    """Device numbers change with a boot, inode numbers with a mount of some filesystems."""
    if found is None:
        return Content.NOTHING
    incoming, output = restoring.incoming, restoring.output
    if incoming is not None:
        same_version = not by_inode and found[2:4] == incoming[2:4]
        if found.inode == incoming.inode or same_version:
            return Content.ORIGINAL
    return Content.OUTPUT if output is not None and found[2:4] == output[2:4] else Content.OTHER
