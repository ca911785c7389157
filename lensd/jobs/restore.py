"""Puts originals back under their names. For the process that has the state folder's lock."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

from lensd.errors import FileError, Skipped, StorageError, UsageError
from lensd.jobs import reread
from lensd.jobs.archive_check import hold_archive
from lensd.jobs.originals import Original, original_of_entry
from lensd.logs.events import FileRescued, FileRestored
from lensd.store import publish
from lensd.store.archive import Archive
from lensd.store.archive.folders import mirror_back
from lensd.store.fs import identity_at, open_folder
from lensd.store.identity import Identity
from lensd.store.ledger import Ledger, Outcome
from lensd.watcher.folder import Log
from lensd.watcher.move_tracker import MoveTracker
from lensd.watcher.settle import Key


@dataclass(frozen=True, slots=True)
class _Published:
    """A file that has lensd's marks. `is_known`: the ledger says that lensd wrote these bytes."""

    identity: Identity
    is_known: bool


class Restorer:
    """Not for several threads at once: it changes files, as jobs do."""

    def __init__(
        self, ledger: Ledger, archive: Archive, log: Log, move_tracker: MoveTracker
    ) -> None:
        self._ledger = ledger
        self._archive = archive
        self._log = log
        self._move_tracker = move_tracker

    def put_back(self, original: Original, *, purge: bool = False) -> str:
        """Replace the output by its original, bit for bit; returns move, reflink or copy.

        With `purge` the archive keeps no copy. If the ledger does not know the output's hash, a
        copy of the output is kept in `rescued/`. Raises Skipped(`changed`) if the file is not an
        output as lensd wrote it, Failed, StorageError, OSError.
        """
        with hold_archive(self._archive, self._ledger):
            return self._put_back(original, purge=purge)

    def _put_back(self, original: Original, *, purge: bool) -> str:
        published = self._identify_output(original)
        original = self._prepare(original)
        job_id = self._record_intent(original)
        try:
            with self._rescuing(original, published, job_id):
                folder = os.path.dirname(original.relative)
                mirror_back(original.folder.root, folder, original.archive_path)
                method = publish.return_original(
                    original.archive_path,
                    original.sha256,
                    original.folder.root,
                    original.relative,
                    published=None if published is None else published.identity,
                    token=job_id,
                )
        except BaseException:
            self._withdraw_intent(original, published, job_id)
            raise
        gone = purge or method == "move"
        identity = Identity.of(os.lstat(original.full_path))
        self._ledger.originals.record_restored(job_id, identity, original.archive_path, gone=gone)
        if purge and method != "move":
            # last: the archive may have more than the ledger says, and never less
            self._archive.remover.remove(original.archive_path)
        self._log(
            FileRestored(
                path=original.full_path,
                watch=original.folder.name,
                job_id=job_id,
                sha256=original.sha256,
                method=method,
                bytes=identity.size,
            )
        )
        return method

    def _identify_output(self, original: Original) -> _Published | None:
        """What the original may replace: bytes that lensd wrote, or None for a missing file."""
        try:
            reading = reread.file_at(original.folder.root, original.relative)
        except FileNotFoundError:
            return None  # the output was deleted, perhaps with its folder
        if reading.original is None:
            raise _changed(original, "is not lensd's output any more: another program replaced it")
        outputs = self._find_outputs(original, reading.original)
        if outputs and reading.sha256 not in outputs:
            raise _changed(original, "was edited after lensd wrote it, so it stays")
        return _Published(reading.identity, is_known=bool(outputs))

    def _find_outputs(self, original: Original, sha256_in: str) -> set[str]:
        """The sha256 of all outputs that the file may be; empty if the ledger was lost."""
        rows = self._ledger.files.history(original.folder.root, original.relative)
        rows += self._ledger.originals.find(sha256_in)
        rows += [original.entry] if original.entry is not None else []
        return {row.sha256_out for row in rows if row.sha256_out is not None}

    @contextmanager
    def _rescuing(
        self, original: Original, published: _Published | None, job_id: str
    ) -> Iterator[None]:
        """Keep the bytes that are replaced, if they may have been edited after lensd wrote them."""
        if published is None or published.is_known:
            yield
            return
        watch, relative = original.folder.name, original.relative
        folder_fd = open_folder(original.folder.root, os.path.dirname(relative))
        try:
            name = os.path.basename(relative)
            kept = self._archive.rescuer.copy(folder_fd, name, published.identity, watch, relative)
        finally:
            os.close(folder_fd)
        try:
            yield
        except BaseException:
            self._archive.remover.remove(kept)  # the file has its name still
            raise
        self._log(
            FileRescued(
                path=original.full_path,
                watch=watch,
                job_id=job_id,
                rescued_path=kept,
                message="the ledger does not know whether this output was edited; a copy of it is "
                f"now {kept}. Delete the copy if nothing is missing",
            )
        )

    def _prepare(self, original: Original) -> Original:
        """Move the row to where its output is now; give a copy of an output its own original."""
        entry = original.entry
        if original.is_shared:
            path = self._copy_in_archive(original)
            return replace(original, archive_path=path, entry=None, is_shared=False)
        if entry is None or entry.sha256_in != original.sha256:
            return original  # an older version, or one that the ledger does not know
        if (entry.root, entry.path) != (original.folder.root, original.relative):
            self._move_tracker.move(entry, Key(original.folder.root, original.relative))
        return original_of_entry(  # the move may have given the original another path
            self._archive, original.folder, original.relative, self._ledger.jobs.get(entry.job_id)
        )

    def _copy_in_archive(self, original: Original) -> str:
        """Copy and verify a shared original to the archive path of its output; returns that path.

        Raises UsageError if another original has that path: it stays, and nothing is restored.
        """
        source, watch, relative = original.archive_path, original.folder.name, original.relative
        try:
            return self._archive.keeper.copy_within(source, original.sha256, watch, relative)
        except FileExistsError:
            target = self._archive.originals.find(watch, relative)
            raise UsageError(
                f"{original.full_path} is a copy of another output, and {target} is the original "
                f"of a different file; copy the one that you want by hand: cp -a {source} "
                f"{original.full_path}"
            ) from None

    def _record_intent(self, original: Original) -> str:
        """Write the row first: after a crash the daemon must know the file as restored."""
        job_id = secrets.token_hex(8)
        archived = Identity.of(os.lstat(original.archive_path))
        self._ledger.files.record(
            job_id,
            original.folder.root,
            original.folder.name,
            original.relative,
            archived,
            outcome=Outcome.RESTORED,
            sha256_in=original.sha256,
            bytes_in=archived.size,
            archive_path=original.archive_path,
        )
        return job_id

    def _withdraw_intent(
        self, original: Original, published: _Published | None, job_id: str
    ) -> None:
        """Nothing was put back, so the ledger must not count the file as restored."""
        before = None if published is None else published.identity
        with suppress(FileError, StorageError, OSError):
            if _identify(original) == before:
                self._ledger.files.withdraw(job_id)


def _identify(original: Original) -> Identity | None:
    """What the path has now; None if the file is missing, or its folder."""
    try:
        folder_fd = open_folder(original.folder.root, os.path.dirname(original.relative))
    except FileNotFoundError:
        return None
    try:
        return identity_at(folder_fd, os.path.basename(original.relative))
    finally:
        os.close(folder_fd)


def _changed(original: Original, why: str) -> Skipped:
    return Skipped(
        "changed",
        f"{original.full_path} {why}. Move it away first, then restore the original again",
    )
