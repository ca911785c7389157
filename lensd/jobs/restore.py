"""Puts originals back under their names. For the process that has the state folder's lock."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace

from lensd.errors import Failed, LensdError, Reason, Skipped
from lensd.jobs import reread
from lensd.jobs.archive_check import hold_archive
from lensd.jobs.archived import has_original, open_original
from lensd.jobs.explained import explained, require_changeable
from lensd.jobs.originals import Original, original_of_entry
from lensd.jobs.replaced import find_outputs, report_kept
from lensd.jobs.reread import Held, Reading, Stop
from lensd.jobs.restoring import Restores, is_there, temporary_of
from lensd.store import publish
from lensd.store.archive import Archive
from lensd.store.archive.folders import mirror_back
from lensd.store.disk_errors import Interrupted
from lensd.store.fs import open_folder
from lensd.store.identity import Identity
from lensd.store.ledger import Ledger
from lensd.store.ledger.notes import Restoring
from lensd.store.ledger.states import UNDER_WAY
from lensd.watcher.folder import Log
from lensd.watcher.move_tracker import MoveTracker
from lensd.watcher.settle import Key


class Restorer:
    """Not for several threads at once: it changes files, as jobs do."""

    def __init__(
        self,
        ledger: Ledger,
        archive: Archive,
        log: Log,
        move_tracker: MoveTracker,
        quiet_seconds: float,
    ) -> None:
        self._ledger = ledger
        self._archive = archive
        self._log = log
        self._move_tracker = move_tracker
        self._quiet_seconds = quiet_seconds
        self._restores = Restores(ledger, archive, log, quiet_seconds)

    def finish_interrupted(self, wanted: Callable[[str], bool], stop: Stop) -> None:
        """Complete or take back what a crash cut off, below wanted roots that are there."""
        self._restores.finish_interrupted(
            lambda root: wanted(root) and is_there(self._ledger, root), stop
        )

    def put_back(
        self,
        original: Original,
        *,
        purge: bool = False,
        keep: bool = False,
        stop: Stop = lambda: False,
    ) -> str:
        """Replace the output by its original, bit for bit; returns move, reflink or copy.

        The output and the original are under a lease from before they are hashed until one of them
        is unlinked; without leases lensd waits for a quiet time and compares. With `purge` the
        archive keeps no copy; with `keep` it does, since another output needs it. If the ledger
        does not know the output's hash, a copy of the output is kept in `rescued/`. Raises
        Skipped(`changed`) if the file is not an output as lensd wrote it or a program writes to
        it, FileError, StorageError, Interrupted.
        """
        with explained(original.full_path, original.archive_path), ExitStack() as opened:
            opened.enter_context(hold_archive(self._archive, self._ledger))
            self._require_no_job(original)
            output = self._hold_output(original, stop, opened)
            original, source = self._hold_original(self._prepare(original), stop, opened)
            kept = self._keep_unknown(original, output)
            try:
                job_id, method = self._replace(
                    original, source, output, stop, purge=purge, keep=keep
                )
            except BaseException:
                if kept is not None:
                    self._archive.remover.remove(kept)
                raise
        if kept is not None:
            report_kept(self._log, original.full_path, original.folder.name, job_id, kept)
        return method

    def _require_no_job(self, original: Original) -> None:
        rows = self._ledger.files.history(original.folder.root, original.relative)
        if any(r.state in UNDER_WAY for r in rows):
            raise Skipped(
                Reason.CHANGED,
                f"a crash cut off a job of {original.full_path}: `lensd run` or `lensd once` "
                "completes it; then restore the original again",
            )

    def _hold_output(self, original: Original, stop: Stop, opened: ExitStack) -> Held | None:
        """What the original may replace: bytes that lensd wrote, or None for a missing file."""
        folder, name = os.path.split(original.relative)
        try:
            folder_fd = open_folder(original.folder.root, folder)
            opened.callback(os.close, folder_fd)
            output = opened.enter_context(reread.hold_at(folder_fd, name, original.full_path, stop))
        except FileNotFoundError:
            return None  # the output was deleted, perhaps with its folder
        if output.reading.sha256 == original.sha256:
            raise Skipped(
                Reason.CHANGED,
                f"{original.full_path} is its original already, so nothing was changed",
            )
        if output.reading.original is None:
            raise _changed(original, "is not lensd's output any more: another program replaced it")
        if output.reading.original != original.sha256 and not original.is_version:
            raise _changed(original, "is the output of another original now")
        require_changeable(output.fd, original.full_path)
        self._require_as_written(original, output.reading)
        return output

    def _require_as_written(self, original: Original, found: Reading) -> None:
        """Raises Skipped for an edited output, and for one that another lensd made.

        A rebuilt ledger has the originals of outputs, but not the hashes of all outputs.
        """
        outputs = find_outputs(self._ledger, found.original)
        if found.sha256 in outputs:
            return
        if outputs:
            raise _changed(original, "was edited after lensd wrote it, so it stays")
        history = self._ledger.files.history(original.folder.root, original.relative)
        is_complete = any(row.sha256_out is not None for row in history)
        if is_complete and not self._ledger.originals.rows_of(found.original or ""):
            raise _changed(original, "is an output that the ledger does not know, so it stays")

    def _hold_original(
        self, original: Original, stop: Stop, opened: ExitStack
    ) -> tuple[Original, Held]:
        """Read the archived original; if it is damaged, take another one with the same bytes.

        It may also be that of another file with the same size: a rebuilt ledger does not know.
        """
        source = opened.enter_context(
            reread.hold_original(self._archive, original.archive_path, stop)
        )
        if source.reading.sha256 == original.sha256:
            return original, source
        size = source.reading.identity.size
        other = self._archive.originals.search(original.sha256, original.bytes or size)
        if other is None:
            raise _damaged(original)
        original = self._prepare(replace(original, archive_path=other, is_shared=True))
        source = opened.enter_context(
            reread.hold_original(self._archive, original.archive_path, stop)
        )
        if source.reading.sha256 != original.sha256:
            raise _damaged(original)
        return original, source

    def _keep_unknown(self, original: Original, output: Held | None) -> str | None:
        """Keep a copy of what is replaced, if lensd cannot make it again: it may have been edited
        after lensd wrote it, or its original was pruned.
        """
        if output is None:
            return None
        named = output.reading.original or ""
        if find_outputs(self._ledger, named) and self._has_original(original, named):
            return None
        folder, name = os.path.split(original.relative)
        folder_fd = open_folder(original.folder.root, folder)
        try:
            return self._archive.rescuer.copy(
                folder_fd, name, output.reading.identity, original.folder.name, original.relative
            )
        finally:
            os.close(folder_fd)

    def _has_original(self, restored: Original, sha256: str) -> bool:
        """Whether the archive has an original, or it is the one that is restored."""
        if sha256 == restored.sha256:
            return True
        paths = (row.archive_path for row in self._ledger.originals.find(sha256))
        if any(path is not None and has_original(self._archive, path) for path in paths):
            return True
        place = restored.folder.name, restored.relative
        return self._archive.originals.locate(*place, sha256) is not None

    def _replace(
        self,
        original: Original,
        source: Held,
        output: Held | None,
        stop: Stop,
        *,
        purge: bool,
        keep: bool,
    ) -> tuple[str, str]:
        """Returns the job of the row, and the method."""
        identity = None if output is None else output.reading.identity
        restoring = self._restores.begin(original, identity, purge=purge)
        try:
            with self._staged(original, source, restoring, stop, keep=keep) as (
                folder_fd,
                incoming,
            ):
                restoring = self._restores.note_staged(restoring, *incoming)
                publish.place(
                    folder_fd,
                    os.path.basename(original.relative),
                    temporary_of(restoring),
                    incoming[0],
                    replaces=identity,
                    unbroken=lambda: output is None or output.unbroken,
                )
        except BaseException:
            # What lies on the disk decides, as after a crash; with a fault, at the next start.
            with suppress(LensdError, OSError, Interrupted):
                self._restores.finish(restoring, stop, output=output, recovered=False)
            raise
        self._restores.finish(restoring, stop, output=output, recovered=False)
        return restoring.job_id, restoring.method

    @contextmanager
    def _staged(
        self, original: Original, source: Held, restoring: Restoring, stop: Stop, *, keep: bool
    ) -> Iterator[tuple[int, tuple[Identity, str]]]:
        """The folder, and what is complete under the temporary: the original, and how it came."""
        folder = os.path.dirname(original.relative)
        folder_fd = mirror_back(original.folder.root, folder, original.archive_path)
        try:
            with publish.staged_original(
                source.fd,
                original.sha256,
                folder_fd,
                temporary_of(restoring),
                stop,
                may_link=not keep,
            ) as (method, incoming):
                if not source.unbroken:
                    raise _changed(original, "has an original that a program opened for writing")
                yield folder_fd, (incoming, method)
        finally:
            os.close(folder_fd)

    def _prepare(self, original: Original) -> Original:
        """Move the row to where its output is now; give a copy of an output its own original."""
        entry = original.entry
        if original.is_shared:
            path = self._copy_into_archive(original)
            return replace(original, archive_path=path, entry=None, is_shared=False)
        if entry is None or entry.sha256_in != original.sha256:
            return original  # an older version, or one that the ledger does not know
        if (entry.root, entry.path) != (original.folder.root, original.relative):
            self._move_tracker.move(entry, Key(original.folder.root, original.relative))
        return original_of_entry(  # the move may have given the original another path
            self._archive, original.folder, original.relative, self._ledger.jobs.get(entry.job_id)
        )

    def _copy_into_archive(self, original: Original) -> str:
        """Give a copy of an output an original of its own; returns its path."""
        fd = open_original(self._archive, original.archive_path)
        try:
            return self._archive.keeper.copy_for(
                fd, original.sha256, original.folder.name, original.relative
            )
        finally:
            os.close(fd)


def _damaged(original: Original) -> Failed:
    return Failed(
        Reason.IO_ERROR,
        f"the archived original {original.archive_path} is damaged (its sha256 is not "
        f"{original.sha256}): nothing was replaced; restore that file from a backup and check the "
        "disk",
    )


def _changed(original: Original, why: str) -> Skipped:
    return Skipped(
        Reason.CHANGED,
        f"{original.full_path} {why}. Move it away first, then restore the original again",
    )
