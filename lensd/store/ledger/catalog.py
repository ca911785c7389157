"""A copy of what a table of all files shows, in memory, for a process that only reads the ledger.

The ledger has no index by family, size or time, because each would cost the daemon a write for each
job. SQLite fills this copy from the ledger by itself, so that it takes little memory, and
`refresh` reads again only the rows that changed.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from lensd.errors import Outcome, StorageError
from lensd.store.ledger.database import LEDGER, uri
from lensd.store.ledger.files import OUTDATED

# Outcomes that the table leaves out: another row of the same path is newer.
HIDDEN = (Outcome.SUPERSEDED, Outcome.REPLACED)
SORTS = {
    "name": "folder {0}, name {0}",
    "family": "family {0}",
    "mode": "mode {0}",
    "before": "before {0}",
    "after": "after {0}",
    "ratio": "1.0 * before / after {0}",
    "error": "error {0}",
    "seconds": "seconds {0}",
    "when": "ended {0}",
    "outcome": "outcome {0}",
}
_TABLE = """
CREATE TABLE listed (
    id INTEGER PRIMARY KEY, job_id TEXT, path BLOB, folder TEXT, name TEXT, outcome TEXT,
    reason TEXT, family TEXT, mode TEXT, before INTEGER, after INTEGER, error REAL, seconds REAL,
    ended REAL, hashes TEXT
);
CREATE INDEX by_time ON listed (ended);
CREATE TABLE hidden (job_id TEXT PRIMARY KEY);
"""
_TEXT = "CAST(path AS TEXT)"
_BELOW = f"rtrim({_TEXT}, replace({_TEXT}, '/', ''))"  # up to the last slash
_LINE = "CASE WHEN json_valid(line) THEN line END"
_FILL = f"""
INSERT OR REPLACE INTO listed
SELECT id, job_id, path, rtrim(watch || '/' || {_BELOW}, '/'),
    substr({_TEXT}, length({_BELOW}) + 1), outcome, reason,
    json_extract({_LINE}, '$.family'), json_extract({_LINE}, '$.mode'), bytes_in, bytes_out,
    json_extract({_LINE}, '$.delta_error'),
    json_extract({_LINE}, '$.seconds.total') - coalesce(json_extract({_LINE}, '$.seconds.wait'), 0),
    coalesce(published, updated),
    substr(sha256_in, 1, 16) || ' ' || coalesce(substr(sha256_out, 1, 16), '')
FROM ledger.files WHERE state = 'done'
"""  # noqa: S608  constants of ours
# By indexes that hold all that is compared: the rows themselves are not read.
_CHANGED = """
SELECT f.id FROM ledger.files AS f INDEXED BY files_ended LEFT JOIN listed AS c ON c.id = f.id
WHERE f.state = 'done' AND f.outcome IS NOT NULL AND c.outcome IS NOT f.outcome
UNION
SELECT f.id FROM ledger.files AS f INDEXED BY files_by_path JOIN listed AS c ON c.id = f.id
WHERE f.path <> c.path
"""
_GONE = "DELETE FROM listed WHERE id NOT IN (SELECT id FROM ledger.files WHERE state = 'done')"
_HIDE_OUTDATED = f"INSERT OR IGNORE INTO hidden SELECT older.job_id {OUTDATED.format('ledger.')}"
# Its owner did not delete the file, nor put another one there.
_THERE = "job_id NOT IN (SELECT job_id FROM hidden)"
_SHOWN = f"outcome NOT IN ({', '.join(repr(str(o)) for o in HIDDEN)}) AND {_THERE}"
_ROW = "job_id, folder, name, outcome, reason, family, mode, before, after, error, seconds, ended"


class Listed(NamedTuple):
    """A row of the table. `folder` begins with the name of the watched folder."""

    job_id: str
    folder: str
    name: str
    outcome: str
    reason: str | None
    family: str | None
    mode: str | None
    before: int | None  # bytes
    after: int | None
    error: float | None
    seconds: float | None
    ended: float  # wall time

    @property
    def ratio(self) -> float | None:
        return self.before / self.after if self.before and self.after else None


class Query(NamedTuple):
    """What the table shows; an empty text: all. `page` counts from 0."""

    search: str = ""
    folder: str = ""
    family: str = ""
    outcome: str = ""
    sort: str = "when"
    down: bool = True
    page: int = 0


class Catalog:
    """The copy. Any thread may use it. Raises StorageError where the ledger cannot be read.

    `unchanging`: no process writes to the ledger, so that SQLite needs no lock and no shared
    memory beside it, which a read-only folder does not allow.
    """

    def __init__(self, folder: str, *, unchanging: bool = False) -> None:
        self._lock = threading.Lock()
        self._db = sqlite3.connect(":memory:", uri=True, check_same_thread=False, timeout=5)
        self._db.text_factory = lambda found: found.decode("utf-8", "backslashreplace")
        name = uri(os.path.join(folder, LEDGER), "ro", unchanging=unchanging)
        self._folder = folder
        with self._reading():
            self._db.execute("ATTACH ? AS ledger", (name,))
            self._db.executescript(_TABLE)
        self._version = -1
        self.refresh()

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def refresh(self) -> bool:
        """Take over what changed in the ledger; whether something did."""
        with self._lock, self._reading():
            version = int(self._db.execute("PRAGMA ledger.data_version").fetchone()[0])
            if version == self._version:
                return False
            is_first = self._version == -1
            self._version = version
            with self._db:
                where = "" if is_first else f"AND id IN ({_CHANGED})"
                self._db.execute(_FILL + where)
                if self._count("listed") != self._count("ledger.files WHERE state = 'done'"):
                    self._db.execute(_GONE)
                self._take_deleted()
                self._db.execute(_HIDE_OUTDATED)
            return True

    def _take_deleted(self) -> None:
        """Which files their owners deleted; a ledger of an older lensd has no such table."""
        self._db.execute("DELETE FROM hidden")
        if self._count("ledger.sqlite_schema WHERE name = 'gone'"):
            self._db.execute(
                "INSERT INTO hidden SELECT job_id FROM ledger.gone WHERE what = 'file'"
            )

    def _count(self, table: str) -> int:
        return int(self._db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # noqa: S608

    def page(self, query: Query, size: int) -> tuple[list[Listed], int]:
        """One page of the files that a query selects, and how many it selects."""
        where, values = _condition(query)
        order = SORTS.get(query.sort, SORTS["when"]).format("DESC" if query.down else "ASC")
        column = "after" if query.sort == "ratio" else order.split()[0]
        nulls_last = "" if column == "ended" else f"{column} IS NULL, "  # `ended` has an index
        with self._lock, self._reading():
            total = int(
                self._db.execute(f"SELECT count(*) FROM listed WHERE {where}", values).fetchone()[0]  # noqa: S608
            )
            rows = self._db.execute(
                f"SELECT {_ROW} FROM listed WHERE {where} "  # noqa: S608  constants of ours
                f"ORDER BY {nulls_last}{order}, id DESC LIMIT ? OFFSET ?",
                (*values, size, query.page * size),
            ).fetchall()
        return [Listed(*row) for row in rows], total

    def values(self, column: str) -> list[str]:
        """The values of `folder`, `family` or `outcome`, in order."""
        if column not in ("folder", "family", "outcome"):
            raise ValueError(column)
        with self._lock, self._reading():
            found = self._db.execute(
                f"SELECT DISTINCT {column} FROM listed WHERE {_SHOWN} AND {column} IS NOT NULL "  # noqa: S608
                f"ORDER BY {column}"
            ).fetchall()
        return [value for (value,) in found]

    def days(self) -> list[tuple[str, int, int]]:
        """(day, compressed files, bytes saved) in the local time zone, oldest first."""
        with self._lock, self._reading():
            return self._db.execute(
                "SELECT date(ended, 'unixepoch', 'localtime') AS day, count(*), "  # noqa: S608
                f"sum(before - after) FROM listed WHERE outcome = 'compressed' AND {_THERE} "
                "AND before IS NOT NULL AND after IS NOT NULL GROUP BY day ORDER BY day"
            ).fetchall()

    def sizes(self) -> tuple[int, int]:
        """Bytes of the compressed files, before and after."""
        with self._lock, self._reading():
            before, after = self._db.execute(
                "SELECT coalesce(sum(before), 0), coalesce(sum(after), 0) FROM listed "  # noqa: S608
                f"WHERE outcome = 'compressed' AND {_THERE}"
            ).fetchone()
        return int(before), int(after)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Turn errors of SQLite into a StorageError."""
        try:
            yield
        except sqlite3.Error as error:
            message = f"the ledger in {self._folder} cannot be read: {error}"
            raise StorageError(message, self._folder) from None


def _condition(query: Query) -> tuple[str, Sequence[str]]:
    parts, values = [_SHOWN], []
    for word in query.search.split():
        parts.append(
            "(folder || '/' || name || ' ' || coalesce(family, '') || ' ' || coalesce(mode, '') "
            "|| ' ' || outcome || ' ' || coalesce(reason, '') LIKE ? ESCAPE '\\' "
            "OR ' ' || hashes LIKE ? ESCAPE '\\')"
        )
        values += [f"%{_escape(word)}%", f"% {_escape(word[:16])}%"]
    if query.folder:
        parts.append("(folder = ? OR folder LIKE ? ESCAPE '\\')")
        values += [query.folder, f"{_escape(query.folder)}/%"]
    for column in ("family", "outcome"):
        value = getattr(query, column)
        if value:
            parts.append(f"{column} = ?")
            values.append(value)
    return " AND ".join(parts), values


def _escape(word: str) -> str:
    return word.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
