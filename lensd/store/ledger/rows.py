"""The ledger's one large table: its rows read as entries, and written."""

from __future__ import annotations

import os
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from heapq import merge
from operator import attrgetter
from typing import Any, TypedDict

from lensd.store.archive.naming import decode
from lensd.store.identity import Identity
from lensd.store.ledger.database import Database
from lensd.store.ledger.entry import Entry, entry_of, row_key, stored
from lensd.store.ledger.states import JobState, Outcome
from lensd.store.paths import VERSIONS


class Columns(TypedDict, total=False):
    """What a caller may change in a row."""

    state: JobState
    outcome: Outcome | None
    reason: str | None
    message: str | None
    attempts: int
    temporary: str | None
    staged: Identity | None
    sha256_in: str | None
    sha256_out: str | None
    bytes_in: int | None
    bytes_out: int | None
    archive_path: str | None
    archive_method: str | None
    line: dict[str, Any] | None
    emitted: int
    version: str
    not_before: float | None
    published: float | None


PAGE = 500  # rows; those of 100,000 files would take 200 MB


class Rows:
    """The `files` table, for the parts of the ledger. `version` is lensd's.

    A row that is no entry is left out and reported; the other rows are read.
    """

    def __init__(self, database: Database, version: str) -> None:
        self._database = database
        self.version = version
        self.report_damaged: Callable[[int, ValueError], None] = lambda *_: None
        self._damaged: set[int] = set()

    def get(self, job_id: str) -> Entry:
        """The row of a job that exists."""
        return self.all("job_id = ?", job_id)[0]

    def insert(
        self, db: sqlite3.Connection, root: str, watch: str, path: str, identity: Identity,
        *, job_id: str | None = None, state: JobState = JobState.QUEUED,
        outcome: Outcome | None = None, redo: bool = False,
    ) -> None:  # fmt: skip
        """Add a row; without `job_id` it gets a random one."""
        now = time.time()
        db.execute(
            "INSERT INTO files (job_id, root, watch, path, device, inode, size, mtime_ns, "
            "ctime_ns, state, outcome, redo, version, created, updated) "
            "VALUES (coalesce(?, lower(hex(randomblob(8)))), ?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
            (job_id, os.fsencode(root), watch, os.fsencode(path), *identity, state, outcome, redo,
             self.version, now, now),
        )  # fmt: skip

    def insert_all(
        self,
        db: sqlite3.Connection,
        root: str,
        watch: str,
        found: Sequence[tuple[str, Identity, Columns]],
    ) -> None:
        """Add finished rows, by one statement."""
        now, names = time.time(), [*found[0][2]] if found else []
        root_bytes = os.fsencode(root)
        first = secrets.randbits(63)  # ids in order: random ones would change all of their index
        columns = "".join(f", {name}" for name in names)
        db.executemany(
            "INSERT INTO files (job_id, root, watch, path, device, inode, size, mtime_ns, "  # noqa: S608  keywords of ours
            f"ctime_ns, state, version, created, updated{columns}) VALUES "
            f"(?{',?' * (12 + len(names))})",
            (
                (f"{first + number:016x}", root_bytes, watch, os.fsencode(path), *identity,
                 JobState.DONE, self.version, now, now, *(stored(n, v) for n, v in values.items()))
                for number, (path, identity, values) in enumerate(found)
            ),
        )  # fmt: skip

    def first(self, where: str, *values: Any) -> Entry | None:
        """The first row of a condition, which may end in ORDER BY."""
        rows = self._read(where + " LIMIT 1", *values)
        if not rows:
            return None
        return self._entry(rows[0]) or next(iter(self.all(where, *values)), None)

    def all(self, where: str, *values: Any) -> list[Entry]:
        """All rows of a condition, which may end in ORDER BY."""
        return [e for row in self._read(where, *values) if (e := self._entry(row)) is not None]

    def each(self, column: str, *values: str, also: str = "TRUE") -> Iterator[Entry]:
        """Rows whose column has one of some values, oldest first; few at a time in memory.

        A row that changes meanwhile is given as it is when its page is read.
        """
        return merge(
            *(self._pages(f"{column} = ? AND {also}", value) for value in values),
            key=attrgetter("number"),
        )

    def _pages(self, where: str, value: str) -> Iterator[Entry]:
        last = 0
        while page := self._read(f"{where} AND id > ? ORDER BY id LIMIT {PAGE}", value, last):
            yield from (e for row in page if (e := self._entry(row)) is not None)
            last = page[-1]["id"]

    def _read(self, where: str, *values: Any) -> list[sqlite3.Row]:
        query = f"SELECT * FROM files WHERE {where}"  # noqa: S608  `where` is a constant of ours
        return self._database.read(query, *values)

    def _entry(self, row: sqlite3.Row) -> Entry | None:
        try:
            return entry_of(row)
        except ValueError as error:
            if row["id"] not in self._damaged:
                self._damaged.add(row["id"])
                self.report_damaged(row["id"], error)
            return None


def update(db: sqlite3.Connection, job_id: str, columns: Columns) -> None:
    """Set columns of a job's row, and the time of the change."""
    assignments = ", ".join(f"{name} = ?" for name in (*columns, "updated"))
    values = [stored(name, value) for name, value in columns.items()] + [time.time()]
    query = f"UPDATE files SET {assignments} WHERE job_id = ?"  # noqa: S608  keywords of ours
    db.execute(query, (*values, job_id))


def replace_older(db: sqlite3.Connection, root: str, path: str, job_id: str) -> None:
    """Give the older compressed rows of a path the outcome `replaced`."""
    # + keeps SQLite from reading all compressed rows: 58 ms beside 100,000, for each job
    db.execute(
        "UPDATE files SET outcome = 'replaced' WHERE root = ? AND path = ? "
        "AND +outcome = 'compressed' AND job_id <> ?",
        (*row_key(root, path), job_id),
    )


def move_original(db: sqlite3.Connection, old: str, new: str, sha256: str) -> None:
    """Change the archive path of all rows of one original."""
    db.execute(
        "UPDATE files SET archive_path = ? WHERE archive_path = ? AND sha256_in = ?",
        (os.fsencode(new), os.fsencode(old), sha256),
    )


def move_older_originals(db: sqlite3.Connection, entry: Entry) -> None:
    """Rows of other originals with the archive path of this one: theirs moved to `.versions`."""
    archived, inside = entry.archive_path, f"{entry.watch}/{entry.path}"
    if archived is None or entry.sha256_in is None:
        return
    decoded = decode(archived)
    if not decoded.endswith(f"/{inside}"):
        return
    top = decoded.removesuffix(inside)
    query = "SELECT DISTINCT sha256_in FROM files WHERE archive_path = ? AND sha256_in <> ?"
    for (older,) in db.execute(query, (os.fsencode(archived), entry.sha256_in)).fetchall():
        aside = f"{top}{VERSIONS}/{older}/{archived.removeprefix(top)}"
        move_original(db, archived, aside, older)
