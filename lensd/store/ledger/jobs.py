"""The queue, and the life of a job from `queued` to `done`."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Collection, Iterable, Iterator
from typing import Unpack

from lensd.store.identity import Identity
from lensd.store.ledger.database import Database
from lensd.store.ledger.entry import Entry
from lensd.store.ledger.observed import ObservedTime
from lensd.store.ledger.rows import Columns, Rows, update
from lensd.store.ledger.states import UNDER_WAY, JobState, Outcome

SOME = 1000
# No job is postponed for longer: a later time is that of a clock which was wrong.
LONGEST_DELAY = 3600.0
_IS_POSTPONED = "not_before > ? AND not_before <= ?"
_NOT_PAUSED = """
NOT EXISTS (
    SELECT 1 FROM paused, (SELECT CAST(root || x'2f' || files.path AS BLOB) AS whole)
    WHERE paused.path IN (x'', whole)
       OR CAST(paused.path || x'2f' AS BLOB) = substr(whole, 1, length(paused.path) + 1)
)
"""


class Jobs:
    """Rows as jobs."""

    def __init__(self, database: Database, rows: Rows) -> None:
        self._database = database
        self._rows = rows
        self._observed = ObservedTime(database)

    def get(self, job_id: str) -> Entry:
        """The row of a job that exists."""
        return self._rows.get(job_id)

    def enqueue(
        self, job_id: str, root: str, watch: str, path: str, identity: Identity,
        *, redo: bool = False, **columns: Unpack[Columns],
    ) -> Entry:  # fmt: skip
        """A settled file becomes a job; with `redo`, one that starts from the archived original."""
        with self._database.change() as db:
            self._rows.insert(db, root, watch, path, identity, job_id=job_id, redo=redo)
            update(db, job_id, columns)
        return self.get(job_id)

    def redo(self, job_id: str, entry: Entry) -> None:
        """A new job for a compressed file, which starts from its archived original."""
        self.enqueue(
            job_id,
            entry.root,
            entry.watch,
            entry.path,
            entry.staged or entry.identity,
            redo=True,
            sha256_in=entry.sha256_in,
            archive_path=entry.archive_path,
            archive_method=entry.archive_method,
        )

    def next_queued(
        self,
        now: float | None = None,
        *,
        root: str | None = None,
        without: Collection[str] = (),
        but: Collection[str] = (),
        heed_pauses: bool = True,
        smallest: bool = False,
    ) -> Entry | None:
        """The job that waits longest; those with failed attempts come after the fresh ones.

        `root`: only jobs of this one. `smallest`: of the SOME jobs that wait longest the one with
        the smallest file. Leaves out paused jobs (with `heed_pauses`), jobs postponed beyond `now`
        (wall time; by default the present), jobs in a root of `without`, and the jobs `but`.
        """
        if heed_pauses and self._is_everything_paused():  # one look instead of one per job
            return None
        moment = time.time() if now is None else now
        marks, others = ",".join("?" * len(without)), ",".join("?" * len(but))
        of_root, roots = ("", []) if root is None else ("AND root = ? ", [os.fsencode(root)])
        where = (
            f"state = 'queued' {of_root}AND (not_before IS NULL OR NOT ({_IS_POSTPONED})) "
            f"AND root NOT IN ({marks}) AND job_id NOT IN ({others}) "
            f"AND (? OR {_NOT_PAUSED}) ORDER BY attempts, id"
        )
        if smallest:
            longest = f"SELECT id FROM files WHERE {where} LIMIT {SOME}"  # noqa: S608  constants
            where = f"id IN ({longest}) ORDER BY attempts, size, id"
        postponed = (moment, moment + LONGEST_DELAY)
        values = (*roots, *postponed, *map(os.fsencode, without), *but, not heed_pauses)
        return self._rows.first(where, *values)

    def _is_everything_paused(self) -> bool:
        return bool(self._database.read("SELECT 1 FROM paused WHERE path = x''"))

    def next_due(self, now: float | None = None) -> float | None:
        """The wall time at which a postponed job may be tried again, None without one."""
        where = f"state = 'queued' AND {_IS_POSTPONED}"
        query = f"SELECT min(not_before) AS due FROM files WHERE {where}"  # noqa: S608  constants
        moment = time.time() if now is None else now
        due = self._database.read(query, moment, moment + LONGEST_DELAY)[0]["due"]
        return None if due is None else float(due)

    def postpone(self, job_id: str, not_before: float, reason: str, message: str) -> None:
        """Queue the job again, to start at a wall time or later: its disk may work by then.

        That is within LONGEST_DELAY.
        """
        with self._database.change() as db:
            db.execute("UPDATE files SET retries = retries + 1 WHERE job_id = ?", (job_id,))
            update(db, job_id, {
                "state": JobState.QUEUED, "outcome": None, "reason": reason, "message": message,
                "not_before": not_before, "temporary": None, "staged": None,
            })  # fmt: skip

    def unfinished(self) -> Iterator[Entry]:
        """Jobs that are queued or have begun, oldest first."""
        return self._rows.each("state", JobState.QUEUED, *UNDER_WAY, also="state <> 'done'")

    def queued(self, count: int) -> list[Entry]:
        """The first jobs of the queue, in its order."""
        return self._rows.all("state = 'queued' ORDER BY attempts, id LIMIT ?", count)

    def under_way(self) -> list[Entry]:
        """Jobs that have begun, oldest first."""
        return list(self._rows.each("state", *UNDER_WAY, also="state <> 'done'"))

    def count_unfinished(self) -> int:
        """How many jobs are queued or have begun."""
        query = "SELECT count(*) FROM files WHERE state <> 'done'"
        return int(self._database.read(query)[0][0])

    def update(self, job_id: str, **columns: Unpack[Columns]) -> None:
        """Record a step of a job. Durable on return, except within `Ledger.together`."""
        with self._database.change() as db:
            update(db, job_id, columns)
            if columns.get("state") == JobState.PUBLISHED:
                self._record_published(db, job_id)
            elif columns.get("outcome") == Outcome.COMPRESSED:  # a crash came before `published`
                self._record_published(db, job_id, "AND published IS NULL")

    def _record_published(self, db: sqlite3.Connection, job_id: str, also: str = "") -> None:
        query = f"UPDATE files SET published = ?, observed = ? WHERE job_id = ? {also}"  # noqa: S608
        db.execute(query, (time.time(), self._observed.now(), job_id))

    def finish(self, job_id: str, outcome: Outcome, /, **columns: Unpack[Columns]) -> None:
        """Record the end of a job."""
        columns |= {"state": JobState.DONE, "outcome": outcome, "version": self._rows.version}
        self.update(job_id, **columns)

    def release(self, entries: Iterable[Entry], *, reason: str | None = None) -> None:
        """Forget the outcome of these versions: the next scan takes them as new.

        `reason`: WANTED_AGAIN, or None for one that stays.
        """
        columns: Columns = {"outcome": Outcome.SUPERSEDED}
        if reason is not None:
            columns["reason"] = reason
        with self._database.change() as db:
            for entry in entries:
                update(db, entry.job_id, columns)

    def quarantined_before(self, version: str) -> list[Entry]:
        """Files that another version of lensd quarantined."""
        return self._rows.all("outcome = 'quarantined' AND version <> ? ORDER BY id", version)

    def unemitted(self) -> list[Entry]:
        """Compressed files whose log line a crash may have lost."""
        return self._rows.all("outcome = 'compressed' AND emitted = 0 ORDER BY id")
