"""Archived originals as the rows name them: where each is, and when its output was published."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator

from lensd.store.identity import Identity
from lensd.store.ledger.database import Database
from lensd.store.ledger.entry import Entry, row_key
from lensd.store.ledger.rows import PAGE, Rows, move_original, replace_older

# The reason of a superseded row: a person wants lensd to compress the file again.
WANTED_AGAIN = "wanted_again"


class Originals:
    """Rows by their archived original."""

    def __init__(self, database: Database, rows: Rows) -> None:
        self._database = database
        self._rows = rows

    def find(self, sha256: str) -> list[Entry]:
        """Rows of this original that the archive holds, the newest first."""
        return self._rows.all("sha256_in = ? AND archive_path IS NOT NULL ORDER BY id DESC", sha256)

    def rows_of(self, sha256: str) -> list[Entry]:
        """Rows of this original, also if it has left the archive, the newest first."""
        return self._rows.all("sha256_in = ? ORDER BY id DESC", sha256)

    def at(self, path: str) -> list[Entry]:
        """The rows whose original is this file of the archive."""
        return self._rows.all("archive_path = ? ORDER BY id", os.fsencode(path))

    def newest(self, count: int) -> list[Entry]:
        """The newest compressed rows that have an original in the archive."""
        return self._rows.all(
            "outcome = 'compressed' AND archive_path IS NOT NULL ORDER BY id DESC LIMIT ?", count
        )

    def is_empty(self) -> bool:
        """Whether no row names an original in the archive, not even one of an unfinished job."""
        return not self._database.read("SELECT 1 FROM files WHERE archive_path IS NOT NULL LIMIT 1")

    def published_before(self, moment: float) -> Iterator[Entry]:
        """Rows whose output was published before a wall time and whose original is archived.

        The oldest comes first.
        """
        last = -1.0, 0
        while page := self._rows.all(  # + keeps SQLite from reading all compressed rows per page
            "+outcome IN ('compressed', 'replaced') AND archive_path IS NOT NULL "
            "AND published < ? AND (published, id) > (?, ?) "
            f"ORDER BY published, id LIMIT {PAGE}",
            moment,
            *last,
        ):
            yield from page
            last = page[-1].published or 0.0, page[-1].number

    def count_published(self, root: str, path: str, sha256: str) -> int:
        """How often this original was compressed under this path since a person wanted that.

        `once --redo` of an output does not count.
        """
        query = (
            "SELECT count(*) FROM files WHERE root = ? AND path = ? AND sha256_in = ? "
            "AND outcome IN ('compressed', 'replaced') AND redo = 0 AND id > ("
            "SELECT coalesce(max(id), 0) FROM files WHERE root = ? AND path = ? "
            "AND outcome = 'superseded' AND reason = ?)"
        )
        key = row_key(root, path)
        return int(self._database.read(query, *key, sha256, *key, WANTED_AGAIN)[0][0])

    def record_moved(self, old: str, new: str, sha256: str) -> None:
        """An original has another name in the archive."""
        with self._database.change() as db:
            move_original(db, old, new, sha256)

    def record_incoming(self, job_id: str, identity: Identity) -> None:
        """What takes the name of a row: the next call gives it that name."""
        with self._database.change() as db:
            _record_identity(db, job_id, identity)

    def record_restored(
        self, job_id: str, identity: Identity, archive_path: str, *, gone: bool
    ) -> None:
        """An original was restored and replaced its output. `gone`: it left the archive."""
        entry = self._rows.get(job_id)
        with self._database.change() as db:
            _record_identity(db, job_id, identity)
            replace_older(db, entry.root, entry.path, job_id)
            if gone:
                db.execute(
                    "UPDATE files SET archive_path = NULL WHERE archive_path = ? AND sha256_in = ?",
                    (os.fsencode(archive_path), entry.sha256_in),
                )

    def record_pruned(self, job_id: str) -> None:
        """The original of a job was deleted: it and all rows with the same original lose it."""
        entry = self._rows.get(job_id)
        if entry.archive_path is None:
            return
        with self._database.change() as db:
            db.execute(
                "UPDATE files SET archive_path = NULL WHERE job_id = ? "
                "OR (archive_path = ? AND sha256_in = ?)",
                (job_id, os.fsencode(entry.archive_path), entry.sha256_in),
            )


def _record_identity(db: sqlite3.Connection, job_id: str, identity: Identity) -> None:
    db.execute(
        "UPDATE files SET device = ?, inode = ?, size = ?, mtime_ns = ?, ctime_ns = ?, "
        "staged = NULL WHERE job_id = ?",
        (*identity, job_id),
    )
