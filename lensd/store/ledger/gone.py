"""What a person has deleted: files that lensd compressed, and archived originals."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Literal

from lensd.store.ledger.database import Database

What = Literal["file", "original"]


class Gone:
    """The table `gone`, which an older lensd does not miss; a read-only ledger may lack it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def known(self) -> set[tuple[str, What]]:
        """The job of each deleted file or original, and which of both it is."""
        if not self.exists():
            return set()
        rows = self._database.read("SELECT job_id, what FROM gone")
        return {(row["job_id"], row["what"]) for row in rows}

    def exists(self) -> bool:
        """Whether the ledger has the table."""
        return bool(self._database.read("SELECT 1 FROM sqlite_schema WHERE name = 'gone'"))

    def change(
        self, new: Iterable[tuple[str, What]], back: Iterable[tuple[str, What]] = ()
    ) -> None:
        """Record what was deleted, and what is back."""
        with self._database.change() as db:
            db.executemany(
                "INSERT OR IGNORE INTO gone VALUES (?, ?, ?)",
                [(*found, time.time()) for found in new],
            )
            db.executemany("DELETE FROM gone WHERE job_id = ? AND what = ?", list(back))
