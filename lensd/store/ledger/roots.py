"""Watched folders that lensd has seen, and what each one was when lensd last saw it."""

from __future__ import annotations

import os
import time
from typing import NamedTuple

from lensd.store.ledger.database import Database


class RootIdentity(NamedTuple):
    """What a watched folder was when it was last seen. `mount`: of its mount, None if unknown."""

    device: int
    inode: int
    mount: str | None


class Roots:
    """The `roots` table."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def is_empty(self) -> bool:
        """Whether lensd never saw a folder: the ledger is new, or an older one was lost."""
        return not self._database.read("SELECT 1 FROM roots LIMIT 1")

    def knows(self, root: str) -> bool:
        return bool(self._database.read("SELECT 1 FROM roots WHERE root = ?", os.fsencode(root)))

    def add(self, root: str, watch: str) -> None:
        """Record a folder as seen: all files that it had at that time have rows."""
        with self._database.change() as db:
            db.execute(
                "INSERT OR IGNORE INTO roots (root, watch, first_seen) VALUES (?, ?, ?)",
                (os.fsencode(root), watch, time.time()),
            )

    def get_identity(self, root: str) -> RootIdentity | None:
        """None if `set_identity` was never called for this root."""
        query = "SELECT device, inode, mount FROM roots WHERE root = ? AND device IS NOT NULL"
        rows = self._database.read(query, os.fsencode(root))
        return RootIdentity(*rows[0]) if rows else None

    def set_identity(self, root: str, device: int, inode: int, mount: str | None) -> None:
        """Record what a known root is now; no effect for a root that was never added."""
        with self._database.change() as db:
            db.execute(
                "UPDATE roots SET device = ?, inode = ?, mount = ? WHERE root = ?",
                (device, inode, mount, os.fsencode(root)),
            )
