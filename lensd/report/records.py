"""The records of a history: in memory, or on the disk for collections of millions of objects."""

from __future__ import annotations

import sqlite3
import weakref
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator

import msgspec

from lensd.errors import StorageError
from lensd.report.period import Period
from lensd.report.record import Measures, Record

_SCHEMA = """
pragma journal_mode = off;
pragma synchronous = off;
pragma cache_size = -16000;
create table rows (
    path text primary key, time real, outcome text, reason text, message text, measures blob
);
create index times on rows (time);
begin;
"""
_COLUMNS = "path, time, outcome, reason, message, measures"


class Records(ABC):
    """Records in the order in which their jobs ended."""

    one_per_path: bool

    @abstractmethod
    def select(
        self,
        period: Period,
        outcomes: Collection[str] | None = None,
        *,
        newest_first: bool = False,
    ) -> Iterator[Record]:
        """The records of jobs that ended in the period, with any of these outcomes."""

    @abstractmethod
    def roots(self) -> dict[str, str]:
        """The names of the watched folders, by path."""


class InMemory(Records):
    one_per_path = False

    def __init__(self, records: Iterable[Record]) -> None:
        self._records = sorted(records, key=lambda r: r.when)

    def select(
        self,
        period: Period,
        outcomes: Collection[str] | None = None,
        *,
        newest_first: bool = False,
    ) -> Iterator[Record]:
        for record in reversed(self._records) if newest_first else self._records:
            if period.has(record.when) and (outcomes is None or record.outcome in outcomes):
                yield record

    def roots(self) -> dict[str, str]:
        return {r.root: r.watch for r in self._records if r.root}


class OnDisk(Records):
    """In a temporary database, which SQLite removes with the process, also after a kill."""

    one_per_path = True

    def __init__(self, records: Iterable[Record], kind: type[Measures]) -> None:
        """A later record of a path replaces a former. Raises StorageError, as for a full disk."""
        self._database = sqlite3.connect("", isolation_level=None)
        weakref.finalize(self, self._database.close)
        self._decoder = msgspec.msgpack.Decoder(kind)
        self._database.executescript(_SCHEMA)
        try:
            self._database.executemany(
                f"insert or replace into rows ({_COLUMNS}) values (?, ?, ?, ?, ?, ?)",  # noqa: S608
                map(_columns, records),
            )
        except sqlite3.OperationalError as error:
            raise StorageError(
                f"the report needs space in the folder for temporary files: {error}; "
                "name another folder in TMPDIR"
            ) from None

    def select(
        self,
        period: Period,
        outcomes: Collection[str] | None = None,
        *,
        newest_first: bool = False,
    ) -> Iterator[Record]:
        wanted = "" if outcomes is None else f"and outcome in ({', '.join('?' * len(outcomes))})"
        order = "desc" if newest_first else "asc"
        query = (
            f"select {_COLUMNS} from rows "  # noqa: S608  no value of a row
            "where time >= coalesce(?, time) and time < coalesce(?, time + 1) "
            f"{wanted} order by time {order}, rowid {order}"
        )
        values = (period.since, period.until, *(outcomes or ()))
        for path, time, outcome, reason, message, measures in self._database.execute(query, values):
            yield Record(
                path=path,
                watch="",
                job_id=None,
                outcome=outcome,
                when=time,
                measures=self._decoder.decode(measures),
                reason=reason,
                message=message,
            )

    def roots(self) -> dict[str, str]:
        return {}  # `lensd batch` watches no folder


def _columns(record: Record) -> tuple[object, ...]:
    measures = msgspec.msgpack.encode(record.measures)
    return (
        record.path, record.when, record.outcome, record.reason, record.message, measures,
    )  # fmt: skip
