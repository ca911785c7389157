"""Keeps what another program wrote to a file while lensd replaced it."""

from __future__ import annotations

from lensd.logs.events import FileRescued
from lensd.store.archive import Archive
from lensd.store.ledger.entry import Entry
from lensd.watcher.folder import Log


def rescue_written(
    archive: Archive, log: Log, entry: Entry, folder_fd: int, temporary: str, lensd_did: str
) -> None:
    """Move a temporary to `rescued/` and log it; `lensd_did` says what lensd did meanwhile.

    Raises Skipped(`changed`), Failed(`no_space` | `io_error`), OSError.
    """
    path = archive.rescuer.move(folder_fd, temporary, entry.watch, entry.path)
    log(
        FileRescued(
            path=entry.full_path,
            watch=entry.watch,
            job_id=entry.job_id,
            rescued_path=path,
            message=f"another program wrote to the file while lensd {lensd_did}; those bytes are "
            f"now {path}",
        )
    )
