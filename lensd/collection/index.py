"""Which objects of a source are to do: an index on disk, since 10^7 of them do not fit in memory.

Each run makes a new one, of the listing and of the rows of earlier runs.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from lensd.collection.item import Item, Version
from lensd.collection.rows import Head
from lensd.errors import StorageError

_SCHEMA = """
pragma journal_mode = off;
pragma synchronous = off;
create table rows (path text primary key, place integer, mark text, sha256 text) without rowid;
create table items
    (name blob primary key, path text, size integer, etag text, mtime text, mark text)
    without rowid;
begin;
"""
# `is not` also holds for an object without a row, or one whose row has no mark.
_TODO = "from items left join rows using (path) where items.mark is not rows.mark"

_FAILED = "(rows.path is not null and rows.mark is null)"


class Totals(NamedTuple):
    files: int
    bytes: int


class Index:
    """Not durable: a crash leaves nothing that a later run reads."""

    def __init__(self, folder: str) -> None:
        path = os.path.join(folder, "index.db")
        self._database = sqlite3.connect(path, isolation_level=None)
        self._database.executescript(_SCHEMA)

    def note(self, rows: Iterable[tuple[int, Head]]) -> None:
        """Add rows with their places in the journal; a later row of an object replaces a former."""
        self._write(
            "insert or replace into rows values (?, ?, ?, ?)",
            ((head.path, place, head.mark, head.sha256_out) for place, head in rows),
        )

    def add(self, items: Iterable[tuple[str, str, Item]]) -> None:
        """Add objects of the listing, each with its path in the rows and its mark."""
        self._write(
            "insert or replace into items values (?, ?, ?, ?, ?, ?)",
            (
                (os.fsencode(item.name), path, *_columns(item.version), mark)
                for path, mark, item in items
            ),
        )

    def found(self) -> Totals:
        """All objects of the listing."""
        return self._totals("from items")

    def left(self) -> Totals:
        """The objects that are to do."""
        return self._totals(_TODO)

    def todo(self) -> Iterator[tuple[Item, str | None]]:
        """The objects that are to do, in the order of their names, with the sha256 of an output.

        Those that have failed come last, so that a run which ends after many failures in a row
        leaves less to the next one. Rows may be noted meanwhile.
        """
        [(last,)] = self._database.execute("select coalesce(max(place), -1) from rows")
        for condition in (f"not {_FAILED}", f"{_FAILED} and place <= {last}"):
            query = f"select name, size, etag, mtime, sha256 {_TODO} and {condition} order by name"
            for name, size, etag, mtime, sha256 in self._database.execute(query):
                yield Item(os.fsdecode(name), Version(size, etag, mtime)), sha256

    def sample(self, count: int) -> list[Item]:
        """Objects that are to do, spread evenly over them."""
        step = max(1, self.left().files // max(1, count))
        return [item for n, (item, _) in enumerate(self.todo()) if n % step == step // 2][:count]

    def places(self) -> Iterator[int]:
        """The place of the last row of each object, in the order of the paths."""
        for (place,) in self._database.execute("select place from rows order by path"):
            yield place

    def close(self) -> None:
        self._database.close()

    def _write(self, statement: str, columns: Iterable[tuple[object, ...]]) -> None:
        try:
            self._database.executemany(statement, columns)
        except sqlite3.OperationalError as error:  # such as a full disk
            raise StorageError(f"the index of the objects: {error}") from None

    def _totals(self, rest: str) -> Totals:
        query = f"select count(*), coalesce(sum(size), 0) {rest}"
        return Totals(*self._database.execute(query).fetchone())


def _columns(version: Version) -> tuple[int, str | None, str | None]:
    return version.size, version.etag, version.mtime
