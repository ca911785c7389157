"""After a crash: each state of the ledger has one continuation. Runs before anything else changes.

A temporary is unlinked only if it is provably the staged output or the archived original.
"""

from __future__ import annotations

import os

from lensd import commit
from lensd.errors import Skipped
from lensd.intake.scan import temporaries
from lensd.store import atomic
from lensd.store.entry import Entry
from lensd.store.files import fsync_folder, identity_at, open_folder, temporary_name
from lensd.store.identity import Identity
from lensd.store.rename import exchange
from lensd.workshop import Workshop


def recover(shop: Workshop) -> None:
    """Finish or take back what a crash left between two steps."""
    shop.archive.sweep()
    for entry in shop.ledger.unfinished():
        if entry.state == "queued":
            continue
        try:
            folder_fd = open_folder(entry.root, os.path.dirname(entry.path))
        except (FileNotFoundError, Skipped):
            if entry.state == "published":
                _complete(entry, shop)
            else:
                _begin_again(entry, shop)  # the folder is gone; the job will say so
            continue
        try:
            _continue(entry, folder_fd, shop)
        finally:
            os.close(folder_fd)
    for entry in shop.ledger.unemitted():
        _announce(entry, shop)


def rescue_strays(root: str, watch: str, *, recursive: bool, shop: Workshop) -> None:
    """Temporaries that no job of the ledger knows (it was lost): kept, never deleted."""
    for path in list(temporaries(root, recursive=recursive)):
        folder, name = os.path.split(path)
        folder_fd = open_folder(root, folder)
        try:
            stray = shop.archive.rescue(folder_fd, name, watch, path)
        finally:
            os.close(folder_fd)
        shop.log(
            "file.rescued",
            path=os.path.join(root, path),
            watch=watch,
            job_id=None,
            rescued_path=stray,
            message=f"a temporary that the ledger does not know; it is now {stray}. Delete it if "
            "nothing is missing",
        )


def _continue(entry: Entry, folder_fd: int, shop: Workshop) -> None:
    temporary = entry.temporary or temporary_name(entry.job_id)
    there = identity_at(folder_fd, temporary)
    if entry.state == "published":
        _clear(entry, folder_fd, temporary, there, shop)
        _complete(entry, shop)
    elif entry.state == "running" or _is(there, entry.staged):
        # The names were not exchanged: the temporary is lensd's own.
        _remove(folder_fd, temporary, there)
        _begin_again(entry, shop)
    elif entry.state == "publishing" and _is(_named(folder_fd, entry), entry.staged):
        _after_exchange(entry, folder_fd, temporary, there, shop)
    else:
        _clear(entry, folder_fd, temporary, there, shop)
        _begin_again(entry, shop)


def _after_exchange(
    entry: Entry, folder_fd: int, temporary: str, there: Identity | None, shop: Workshop
) -> None:
    """The output is in place. If what came out is not the original any more, it goes back."""
    if there is None or _is(there, entry.identity):
        _clear(entry, folder_fd, temporary, there, shop)
        _complete(entry, shop)
        return
    exchange(folder_fd, os.path.basename(entry.path), temporary)
    fsync_folder(folder_fd)
    _remove(folder_fd, temporary, identity_at(folder_fd, temporary))
    _begin_again(entry, shop)


def _clear(
    entry: Entry, folder_fd: int, temporary: str, there: Identity | None, shop: Workshop
) -> None:
    """Drop the original that came out of an exchange; rescue anything else."""
    if there is None:
        return
    if entry.archive_path is not None and _is(there, entry.identity):
        atomic.discard(folder_fd, temporary, there)
    else:
        commit.rescue(shop, entry, folder_fd, temporary)


def _remove(folder_fd: int, temporary: str, there: Identity | None) -> None:
    if there is not None:
        atomic.discard(folder_fd, temporary, there)


def _begin_again(entry: Entry, shop: Workshop) -> None:
    shop.ledger.update(entry.job_id, state="queued", temporary=None, staged=None)


def _complete(entry: Entry, shop: Workshop) -> None:
    shop.ledger.replace_older(entry.root, entry.path, entry.job_id)  # a finished job is not seen again
    shop.ledger.finish(entry.job_id, "compressed")


def _announce(entry: Entry, shop: Workshop) -> None:
    if entry.line is not None:
        line = {"publish": "exchange", **entry.line, "recovered": True}
        commit.announce(shop, entry.job_id, line)


def _named(folder_fd: int, entry: Entry) -> Identity | None:
    return identity_at(folder_fd, os.path.basename(entry.path))


def _is(found: Identity | None, wanted: Identity | None) -> bool:
    """The same file with the same content. Device numbers may change with a reboot."""
    return found is not None and wanted is not None and found[1:4] == wanted[1:4]
