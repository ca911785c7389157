"""One check of a watched folder, with what the ledger knows of it."""

from __future__ import annotations

import os

from lensd.errors import DegradedReason, LockedError
from lensd.store import own_folders
from lensd.store.identity import Identity
from lensd.store.ledger import Ledger
from lensd.store.locks import Claims
from lensd.store.mounts import read_mounts
from lensd.store.overlaps import find_overlap
from lensd.watcher import root_identity
from lensd.watcher.root_identity import Found, Problem

SAMPLE = 32  # files whose presence shows that a folder was moved to another disk


def check_root(path: str, ledger: Ledger, claims: Claims) -> Found | Problem:
    """What the folder is now, which the ledger then remembers, or why it is degraded."""
    try:
        found = root_identity.probe(path)
        known = ledger.roots.get_identity(path)
        problem = root_identity.decide(known, found.identity, lambda: _is_familiar(path, ledger))
        problem = problem or _overlap(path)
        if problem is not None:
            return problem
        claims.claim(path)
    except LockedError as error:
        return Problem(DegradedReason.IN_USE, str(error))
    except OSError as error:
        return root_identity.unreachable(error)
    if known != found.identity:
        ledger.roots.set_identity(path, *found.identity)
    return found


def _overlap(root: str) -> Problem | None:
    """A mount that shows lensd's own files in a watched folder, or the other way round."""
    mounts = read_mounts()
    for own in own_folders.paths():
        found = find_overlap(root, own, mounts)
        if found is not None:
            return Problem(
                DegradedReason.OVERLAPS,
                f"{found} shows files of lensd's own folder {own}: unmount it there. lensd must "
                "not compress its own originals, so the folder's jobs wait",
            )
    return None


def _is_familiar(root: str, ledger: Ledger) -> bool:
    """Whether at least half of the files that the ledger saw last lie there, unchanged."""
    files = ledger.files.newest(root, SAMPLE)
    there = sum(_is_unchanged(e.full_path, e.staged or e.identity) for e in files)
    return 0 < len(files) <= 2 * there


def _is_unchanged(path: str, known: Identity) -> bool:
    try:
        found = os.lstat(path)
    except OSError:
        return False
    return (found.st_size, found.st_mtime_ns) == (known.size, known.mtime_ns)
