"""What stays true across a restart until it is changed: pauses, waiting files, notes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass

from lensd.store.ledger import notes
from lensd.store.ledger.database import Database
from lensd.store.ledger.entry import row_key, text


@dataclass(frozen=True, slots=True)
class WaitingFile:
    """A file that is not a job yet. `since`: wall time."""

    path: str  # absolute
    watch: str
    reason: str
    since: float


class State:
    """The small tables of the ledger, and the single values of `notes`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.disk_backoff = notes.disk_backoff(database)
        self.degraded = notes.degraded(database)
        self.archive = notes.archive(database)
        self.filesystems = notes.filesystems(database)
        self.renaming_original = notes.renaming_original(database)
        self.prune_in_progress = notes.prune_in_progress(database)
        self.rebuilding = notes.rebuilding(database)
        self.restoring = notes.restoring(database)
        self.last_prune = notes.last_prune(database)
        self.hashed_until = notes.hashed_until(database)

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

    def waiting(self) -> list[WaitingFile]:
        """The waiting files, the longest wait first."""
        rows = self._database.read("SELECT * FROM waiting ORDER BY since")
        return [
            WaitingFile(
                os.path.join(os.fsdecode(row["root"]), os.fsdecode(row["path"])),
                row["watch"],
                row["reason"],
                row["since"],
            )
            for row in rows
        ]


def _everything_if_none(paths: Iterable[str]) -> list[bytes]:
    return [os.fsencode(path.rstrip("/")) for path in paths] or [b""]
