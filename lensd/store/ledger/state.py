"""What stays true across a restart until it is changed: pauses, waiting files, notes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import Any

from lensd.store.ledger.database import Database
from lensd.store.ledger.entry import row_key, text


class State:
    """The small tables of the ledger."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get_meta(self, key: str) -> str | None:
        rows = self._database.read("SELECT value FROM meta WHERE key = ?", key)
        return str(rows[0]["value"]) if rows else None

    def set_meta(self, key: str, value: str | None) -> None:
        """Note a text under a key; None removes it."""
        with self._database.change() as db:
            if value is None:
                db.execute("DELETE FROM meta WHERE key = ?", (key,))
            else:
                db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, text(value)))

    def pause(self, paths: Iterable[str]) -> None:
        """Take no job under these absolute paths (files or folders); "" or none: no job at all."""
        with self._database.change() as db:
            db.executemany(
                "INSERT OR IGNORE INTO paused VALUES (?, ?)",
                [(path, time.time()) for path in _everything_if_none(paths)],
            )

    def resume(self, paths: Iterable[str]) -> None:
        """End the pause of exactly these paths; "" or none: end all pauses."""
        chosen = _everything_if_none(paths)
        with self._database.change() as db:
            if b"" in chosen:
                db.execute("DELETE FROM paused")
            else:
                db.executemany("DELETE FROM paused WHERE path = ?", [(path,) for path in chosen])

    def paused(self) -> list[str]:
        """The paused paths in order; "" is everything."""
        rows = self._database.read("SELECT path FROM paused ORDER BY path")
        return [os.fsdecode(row["path"]) for row in rows]

    def set_waiting(self, root: str, path: str, watch: str, reason: str | None) -> None:
        """Why a file is not a job yet; None when it no longer waits."""
        key = row_key(root, path)
        with self._database.change() as db:
            if reason is None:
                db.execute("DELETE FROM waiting WHERE root = ? AND path = ?", key)
            else:
                db.execute(
                    "INSERT INTO waiting VALUES (?, ?, ?, ?, ?) "
                    "ON CONFLICT DO UPDATE SET reason = excluded.reason",
                    (*key, watch, text(reason), time.time()),
                )

    def clear_waiting(self) -> None:
        with self._database.change() as db:
            db.execute("DELETE FROM waiting")

    def waiting(self) -> list[dict[str, Any]]:
        rows = self._database.read("SELECT * FROM waiting ORDER BY since")
        return [
            {"path": os.path.join(os.fsdecode(r["root"]), os.fsdecode(r["path"])),
             "watch": r["watch"], "reason": r["reason"], "since": r["since"]}
            for r in rows
        ]  # fmt: skip


def _everything_if_none(paths: Iterable[str]) -> list[bytes]:
    return [os.fsencode(path.rstrip("/")) for path in paths] or [b""]
