"""The output that a restore, or a job of `once --redo`, replaces: is it as lensd wrote it?"""

from __future__ import annotations

import os

from lensd.errors import Reason, Skipped
from lensd.jobs.context import JobContext, JobFile
from lensd.logs.events import FileRescued
from lensd.store.disk_errors import Interrupted
from lensd.store.hashing import sha256_of
from lensd.store.identity import Identity
from lensd.store.ledger import Ledger
from lensd.store.ledger.entry import Entry
from lensd.watcher.folder import Log


def find_outputs(ledger: Ledger, original: str | None, *, but: str | None = None) -> set[str]:
    """The sha256 of all outputs that lensd made of an original; empty if the ledger was lost.

    They are the same for each copy, wherever it lies. `but` is a job whose output has not been
    published yet.
    """
    rows = ledger.originals.rows_of(original or "")
    return {row.sha256_out for row in rows if row.sha256_out is not None and row.job_id != but}


def find_replaced(ledger: Ledger, entry: Entry) -> set[str]:
    """The sha256 of what a job may replace: its original or, with `redo`, an earlier output.

    Empty if the ledger was lost, and with it the sha256 of the output.
    """
    if entry.redo:
        return find_outputs(ledger, entry.sha256_in, but=entry.job_id)
    return {entry.sha256_in} if entry.sha256_in is not None else set()


def keep_unknown_output(job_file: JobFile, context: JobContext) -> None:
    """Before a redo: an edited output ends the job; of an unknown one a copy is kept.

    The hash is of the file under its lease, so it stays true until the exchange. Raises
    Skipped(`changed`), Interrupted.
    """
    entry = job_file.entry
    outputs = find_replaced(context.ledger, entry)
    sha256 = sha256_of(job_file.fd, drop_cache=True, stop=context.stopping.is_set)
    if not outputs:
        found = Identity.of(os.fstat(job_file.fd))
        kept = context.archive.rescuer.copy(
            job_file.folder_fd, job_file.name, found, entry.watch, entry.path
        )
        report_kept(context.log, entry.full_path, entry.watch, entry.job_id, kept)
        job_file.kept = sha256
    elif sha256 not in outputs:
        raise Skipped(
            Reason.CHANGED,
            "another program edited the output after lensd wrote it, so it stays. Move it away, "
            "restore the original, then run `lensd once --redo` with the path",
        )
    if not job_file.unbroken:
        raise Interrupted


def report_kept(log: Log, path: str, watch: str, job_id: str, kept: str) -> None:
    """Log that `rescued/` has a copy of an output that is replaced."""
    log(
        FileRescued(
            path=path,
            watch=watch,
            job_id=job_id,
            rescued_path=kept,
            message="the ledger does not know whether this output was edited, or the archive does "
            f"not have its original; a copy of it is now {kept}. Delete the copy if nothing is "
            "missing",
        )
    )
