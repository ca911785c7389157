"""Rows of the ledger's one large table, read and written."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator, Mapping
from heapq import merge
from operator import attrgetter
from typing import Any

from lensd.store.entry import VERSIONS, Entry, entry_of, row_key, stored
from lensd.store.identity import Identity
from lensd.store.standing import Standing

PAGE = 500  # rows; those of 100,000 files would take 200 MB


class Rows(Standing):
    """What all parts of the ledger do with its rows. `version` is lensd's, noted in each."""

    def __init__(self, folder: str, version: str, *, readonly: bool = False) -> None:
        super().__init__(folder, readonly=readonly)
        self._version = version

    def get(self, job_id: str) -> Entry:
        """The row of a job that is there."""
        return self._all("job_id = ?", job_id)[0]

    def _insert(
        self, db: sqlite3.Connection, root: str, watch: str, path: str, identity: Identity,
        *, job_id: str | None = None, state: str = "queued", outcome: str | None = None,
        redo: bool = False,
    ) -> None:  # fmt: skip
        now = time.time()
        db.execute(
            "INSERT INTO files (job_id, root, watch, path, device, inode, size, mtime_ns, "
            "ctime_ns, state, outcome, redo, version, created, updated) "
            "VALUES (coalesce(?, lower(hex(randomblob(8)))), ?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
            (job_id, os.fsencode(root), watch, os.fsencode(path), *identity, state, outcome, redo,
             self._version, now, now),
        )  # fmt: skip

    def _one(self, where: str, *values: Any) -> Entry | None:
        found = self._all(where + " LIMIT 1", *values)
        return found[0] if found else None

    def _each(self, column: str, *values: str, also: str = "TRUE") -> Iterator[Entry]:
        """Rows of which a column has one of some values, oldest first; few at a time in memory.

        A row that changes meanwhile is given as it is when its page is read.
        """
        return merge(
            *(self._pages(f"{column} = ? AND {also}", value) for value in values),
            key=attrgetter("number"),
        )

    def _pages(self, where: str, value: str) -> Iterator[Entry]:
        last = 0
        while page := self._all(f"{where} AND id > ? ORDER BY id LIMIT {PAGE}", value, last):
            yield from page
            last = page[-1].number

    def _all(self, where: str, *values: Any) -> list[Entry]:
        query = f"SELECT * FROM files WHERE {where}"  # noqa: S608  `where` is a constant of ours
        return [entry_of(row) for row in self._read(query, *values)]


def replace_older(db: sqlite3.Connection, root: str, path: str, job_id: str) -> None:
    # + keeps SQLite from looking at all compressed rows: 58 ms beside 100,000, for each job
    db.execute(
        "UPDATE files SET outcome = 'replaced' WHERE root = ? AND path = ? "
        "AND +outcome = 'compressed' AND job_id <> ?",
        (*row_key(root, path), job_id),
    )


def original_moved(db: sqlite3.Connection, old: str, new: str, sha256: str) -> None:
    db.execute(
        "UPDATE files SET archive_path = ? WHERE archive_path = ? AND sha256_in = ?",
        (os.fsencode(new), os.fsencode(old), sha256),
    )


def older_originals_moved(db: sqlite3.Connection, entry: Entry) -> None:
    place, inside = entry.archive_path, f"{entry.watch}/{entry.path}"
    if place is None or entry.sha256_in is None or not place.endswith(f"/{inside}"):
        return
    query = "SELECT DISTINCT sha256_in FROM files WHERE archive_path = ? AND sha256_in <> ?"
    for (older,) in db.execute(query, (os.fsencode(place), entry.sha256_in)).fetchall():
        aside = f"{place.removesuffix(inside)}{VERSIONS}/{older}/{inside}"
        original_moved(db, place, aside, older)


def update(db: sqlite3.Connection, job_id: str, columns: Mapping[str, Any]) -> None:
    assignments = ", ".join(f"{name} = ?" for name in (*columns, "updated"))
    values = [stored(name, value) for name, value in columns.items()] + [time.time()]
    query = f"UPDATE files SET {assignments} WHERE job_id = ?"  # noqa: S608  keywords of ours
    db.execute(query, (*values, job_id))
