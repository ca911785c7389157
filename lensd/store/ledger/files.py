"""Which rows a file has: by its path, by its inode, by its outcome."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import NamedTuple, Unpack

from lensd.store.identity import Identity
from lensd.store.ledger.database import Database
from lensd.store.ledger.entry import Entry, row_key, stored
from lensd.store.ledger.gone import UNCOMPRESSED, Gone
from lensd.store.ledger.observed import ObservedTime
from lensd.store.ledger.rows import Columns, Rows, move_older_originals, replace_older, update
from lensd.store.ledger.states import JobState, Outcome

# Rows of files that were not compressed, and whose names other files have now.
OUTDATED = """
FROM {0}files AS older
WHERE older.outcome IN ('baseline', 'restored', 'analyzed', 'output', 'skipped', 'kept', 'failed',
    'quarantined') AND older.state = 'done'
AND EXISTS (SELECT 1 FROM {0}files AS newer WHERE newer.root = older.root
    AND newer.path = older.path AND newer.id > older.id
    AND newer.state = 'done' AND newer.outcome <> 'superseded')
"""
_DELETED = "SELECT 1 FROM gone WHERE gone.job_id = files.job_id AND gone.what = 'file'"


@dataclass(frozen=True, slots=True)
class Totals:
    """How many rows each outcome has; sizes in bytes."""

    outcomes: dict[str, int]
    saved_in_folders: int
    held_by_archive: int
    net: int  # saved in the folders, less what the archive holds


class Displaced(NamedTuple):
    """An output that another file replaced."""

    job_id: str
    bytes_in: int
    bytes_out: int


class Files:
    """Rows as versions of files."""

    def __init__(self, database: Database, rows: Rows, gone: Gone) -> None:
        self._database = database
        self._rows = rows
        self._gone = gone

    def record(
        self,
        job_id: str,
        root: str,
        watch: str,
        path: str,
        identity: Identity,
        **columns: Unpack[Columns],
    ) -> None:
        """Record a version that needs no job: a refused file, or lensd's own output."""
        with self._database.change() as db:
            self._rows.insert(db, root, watch, path, identity, job_id=job_id, state=JobState.DONE)
            update(db, job_id, columns)
            if columns.get("published") is not None:  # an output that a lost ledger knew
                query = "UPDATE files SET observed = ? WHERE job_id = ?"
                db.execute(query, (ObservedTime(self._database).now(), job_id))

    def record_all(
        self, root: str, watch: str, found: Sequence[tuple[str, Identity, Columns]]
    ) -> None:
        """As `record`, for many files, whose columns have the same names."""
        with self._database.change() as db:
            self._rows.insert_all(db, root, watch, found)

    def withdraw(self, job_id: str) -> None:
        """Delete a row that was recorded for a step which then changed nothing."""
        with self._database.change() as db:
            db.execute("DELETE FROM files WHERE job_id = ?", (job_id,))

    def record_baseline(self, root: str, watch: str, files: Iterable[tuple[str, Identity]]) -> None:
        """Record files of a folder that lensd sees for the first time as left alone."""
        with self._database.change() as db:
            for path, identity in files:
                self._rows.insert(
                    db, root, watch, path, identity, state=JobState.DONE, outcome=Outcome.BASELINE
                )

    def find(self, root: str, path: str) -> Entry | None:
        """The newest row of a path."""
        return self._rows.first("root = ? AND path = ? ORDER BY id DESC", *row_key(root, path))

    def by_job(self, job_id: str) -> Entry | None:
        """The row of a job, which may not exist."""
        return self._rows.first("job_id = ?", job_id)

    def history(self, root: str, path: str) -> list[Entry]:
        """All rows of a path, oldest first."""
        return self._rows.all("root = ? AND path = ? ORDER BY id", *row_key(root, path))

    def knows(self, root: str, path: str, identity: Identity) -> Entry | None:
        """The newest row of a path, if it is about this version or one with the same content.

        Device numbers change across boots, inode numbers on some network filesystems and ctime
        with a chmod: size, mtime and one of inode and ctime are enough.
        """
        entry = self.find(root, path)
        if entry is None:
            return None
        row = entry.state, entry.outcome, entry.identity, entry.staged
        return entry if _is_about(*row, identity) else None

    def unknown(
        self, root: str, files: Sequence[tuple[str, Identity]]
    ) -> list[tuple[str, Identity]]:
        """Of a few hundred files of a root those that `knows` does not know, by one query."""
        marks = ",".join("?" * len(files))
        query = (
            "SELECT id, path, state, outcome, device, inode, size, mtime_ns, ctime_ns, staged "  # noqa: S608
            f"FROM files WHERE root = ? AND path IN ({marks})"
        )
        paths = [os.fsencode(path) for path, _ in files]
        rows = self._database.read(query, os.fsencode(root), *paths)
        newest = {row["path"]: row for row in sorted(rows, key=itemgetter(0))}
        return [f for f in files if not _row_is_about(newest.get(os.fsencode(f[0])), f[1])]

    def current(self, root: str, path: str) -> Entry | None:
        """The compressed row whose output should lie under a path."""
        return self._rows.first(
            "root = ? AND path = ? AND +outcome = 'compressed' ORDER BY id DESC",
            *row_key(root, path),
        )

    def output(self, root: str, path: str, identity: Identity) -> Entry | None:
        """The compressed row whose output lies under a path, whatever was tried with it since."""
        entry = self.current(root, path)
        known = entry.staged if entry else None
        return entry if known and _same_version(known, identity) else None

    def newest(self, root: str, count: int) -> list[Entry]:
        """The newest finished row of each of the files of a root that finished last."""
        return self._rows.all(
            "root = ? AND state = 'done' AND outcome <> 'superseded' AND NOT EXISTS ("
            "SELECT 1 FROM files AS newer WHERE newer.root = files.root "
            "AND newer.path = files.path AND newer.id > files.id "
            "AND newer.state = 'done' AND newer.outcome <> 'superseded') ORDER BY id DESC LIMIT ?",
            os.fsencode(root),
            count,
        )

    def same_file(self, identity: Identity) -> list[Entry]:
        """Rows about this inode with this content under whatever path, the newest first."""
        wanted = identity[1:4]
        rows = self._rows.all(
            "inode = ? AND size = ? AND mtime_ns = ? UNION ALL SELECT * FROM files WHERE "
            "json_extract(staged, '$[1]') = ? AND staged IS NOT NULL",
            *wanted, identity.inode,
        )  # fmt: skip
        about = {
            e.job_id: e for e in rows if e.outcome != Outcome.SUPERSEDED and e.is_about(identity)
        }
        return sorted(about.values(), key=lambda e: e.number, reverse=True)

    def with_outcome(self, *outcomes: Outcome) -> Iterator[Entry]:
        """Rows with one of these outcomes, oldest first."""
        return self._rows.each("outcome", *outcomes)

    def latest_with_outcome(self, *outcomes: Outcome) -> list[Entry]:
        """Rows with one of these outcomes that are the newest of their path, the newest first.

        Files that a person has deleted are left out.
        """
        marks = ",".join("?" * len(outcomes))
        there = f"AND NOT EXISTS ({_DELETED})" if self._gone.exists() else ""
        return self._rows.all(
            f"outcome IN ({marks}) AND state = 'done' AND NOT EXISTS ("  # noqa: S608
            "SELECT 1 FROM files AS newer WHERE newer.root = files.root "
            f"AND newer.path = files.path AND newer.id > files.id) {there} "
            "ORDER BY updated DESC, id DESC",
            *outcomes,
        )

    def published_after(self, when: float) -> Entry | None:
        """The compressed row, with an original, that was published next after a wall time."""
        return self._rows.first(
            "archive_path IS NOT NULL AND published > ? AND +outcome = 'compressed' "
            "ORDER BY published",
            when,
        )

    def move(
        self, entry: Entry, root: str, watch: str, path: str, **columns: Unpack[Columns]
    ) -> bool:
        """Give the row of a file, and the older rows of its path, the path that it has now.

        A job that has begun is queued again. `columns` are changes of the row itself. False: the
        row moved before.
        """
        with self._database.change() as db:
            here, there = row_key(entry.root, entry.path), row_key(root, path)
            moving = "root = ? AND path = ? AND id <= ?"
            query = f"SELECT max(id), min(id) FROM files WHERE {moving}"  # noqa: S608
            number, first = db.execute(query, (*here, entry.number)).fetchone()
            if number != entry.number:
                return False
            replace_older(db, root, path, entry.job_id)
            db.execute(
                f"UPDATE files SET id = id + ?, root = ?, path = ?, watch = ? WHERE {moving}",  # noqa: S608
                (_distance_above(db, there, first), *there, watch, *here, entry.number),
            )
            if entry.state != JobState.DONE:
                columns = {"state": JobState.QUEUED, "temporary": None, "staged": None,
                           "not_before": None, **columns}  # fmt: skip
            if entry.outcome == Outcome.REPLACED:  # what took its old name did not take the file
                columns = {"outcome": Outcome.COMPRESSED, **columns}
            update(db, entry.job_id, columns)
        return True

    def replace_older(self, root: str, path: str, job_id: str) -> None:
        """A job's output took the place of an older output, whose original stays archived.

        `Archive.keep` has moved that original aside if it had the same name in the archive.
        """
        entry = self._rows.get(job_id)
        with self._database.change() as db:
            replace_older(db, root, path, job_id)
            move_older_originals(db, entry)

    def totals(self) -> Totals:
        counts = self._database.read(
            "SELECT outcome, count(*) AS n FROM files WHERE state = 'done' GROUP BY outcome"
        )
        saved = self._database.read(
            "SELECT coalesce(sum(bytes_in - bytes_out), 0) FROM files "
            "WHERE state = 'done' AND outcome = 'compressed'"
        )[0][0]
        held = self._database.read(
            "SELECT coalesce(sum(bytes_in), 0) FROM (SELECT DISTINCT archive_path, sha256_in, "
            "bytes_in FROM files WHERE archive_path IS NOT NULL AND state = 'done')"
        )[0][0]
        outcomes = {row["outcome"]: row["n"] for row in counts}
        if self._gone.exists():
            files, lost, gone = self._deleted()
            saved, held = saved - lost, held - gone
            outcomes = {o: n - files.get(o, 0) for o, n in outcomes.items() if n > files.get(o, 0)}
        for outcome in self.outdated().values():
            outcomes[outcome] -= 1
            outcomes[Outcome.SUPERSEDED.value] = outcomes.get(Outcome.SUPERSEDED, 0) + 1
        outcomes = {outcome: n for outcome, n in outcomes.items() if n}
        displaced = self.displaced()
        if displaced:
            left = outcomes.pop(Outcome.COMPRESSED, 0) - len(displaced)
            outcomes |= {Outcome.COMPRESSED.value: left} if left > 0 else {}
            outcomes[Outcome.REPLACED.value] = outcomes.get(Outcome.REPLACED, 0) + len(displaced)
        saved -= sum(output.bytes_in - output.bytes_out for output in displaced)
        return Totals(outcomes, saved, held, saved - held)

    def outdated(self) -> dict[str, str]:
        """Jobs of files that were not compressed, whose names other files have now; their outcomes.

        They count no file any more. Without those that are known to be deleted.
        """
        gone = {job_id for job_id, what in self._gone.known() if what == "file"}
        rows = self._database.read(f"SELECT older.job_id, older.outcome {OUTDATED.format('')}")
        return {job_id: outcome for job_id, outcome in rows if job_id not in gone}

    def displaced(self) -> list[Displaced]:
        """Outputs whose names other files have now, and that are not known to be deleted.

        Such a file has a newer row: it was not compressed, or it is the output of another original.
        CROSS JOIN and + let SQLite begin with these rows, which are few.
        """
        is_there = "AND job_id NOT IN (SELECT job_id FROM gone)" if self._gone.exists() else ""
        rows = self._database.read(
            "SELECT job_id, coalesce(bytes_in, 0), coalesce(bytes_out, 0) FROM files WHERE id IN ("  # noqa: S608  constants of ours
            "SELECT older.id FROM files AS newer CROSS JOIN files AS older "
            "ON older.root = newer.root AND older.path = newer.path AND older.id < newer.id "
            "WHERE newer.outcome IN ('skipped', 'kept', 'failed', 'quarantined', 'analyzed', "
            "'output') AND +newer.state = 'done' AND newer.redo = 0 "
            "AND +older.outcome = 'compressed' AND +older.state = 'done' "
            f"AND (newer.outcome <> 'output' OR newer.sha256_in <> older.sha256_in)) {is_there}"
        )
        return [Displaced(*row) for row in rows]

    def _deleted(self) -> tuple[dict[str, int], int, int]:
        """Deleted files by outcome, the bytes that these saved, and the bytes of deleted originals.

        CROSS JOIN lets SQLite begin with the table `gone`, which is small.
        """
        counted = (Outcome.COMPRESSED, *UNCOMPRESSED)  # a restored file is there again
        rows = self._database.read(
            "SELECT outcome, count(*), coalesce(sum(bytes_in - bytes_out), 0) FROM gone "  # noqa: S608
            "CROSS JOIN files USING (job_id) WHERE what = 'file' AND state = 'done' "
            f"AND outcome IN ({','.join('?' * len(counted))}) GROUP BY outcome",
            *counted,
        )
        files = {outcome: count for outcome, count, _ in rows}
        saved = sum(saved for outcome, _, saved in rows if outcome == Outcome.COMPRESSED)
        [[held]] = self._database.read(
            "SELECT coalesce(sum(bytes_in), 0) FROM (SELECT DISTINCT archive_path, sha256_in, "
            "bytes_in FROM gone CROSS JOIN files USING (job_id) WHERE what = 'original' "
            "AND archive_path IS NOT NULL AND state = 'done')"
        )
        return files, saved, held


def _distance_above(db: sqlite3.Connection, there: tuple[bytes, bytes], first: int) -> int:
    """What rows from `first` on add to their ids so that they are the newest of a path."""
    query = "SELECT max(id), (SELECT max(id) FROM files) FROM files WHERE root = ? AND path = ?"
    newest, last = db.execute(query, there).fetchone()
    return int(last - first + 1) if newest is not None and newest > first else 0


def _is_about(
    state: str, outcome: str | None, identity: Identity, staged: Identity | None, now: Identity
) -> bool:
    """Whether a path's newest row is about the version that lies there now."""
    if outcome == Outcome.SUPERSEDED:
        return False
    if _same_version(staged or identity, now):
        return True
    # the exchange may come between the event and the ledger
    return state != JobState.DONE and _same_version(identity, now)


def _row_is_about(row: sqlite3.Row | None, now: Identity) -> bool:
    if row is None:
        return False
    _, _, state, outcome, *numbers, staged = row
    if staged == stored("staged", now):  # as nearly always: a scan asks for each file
        return bool(outcome != Outcome.SUPERSEDED)
    try:
        output = Identity(*json.loads(staged)) if staged else None
    except (ValueError, TypeError, RecursionError):  # a damaged row, which `Rows` reports
        return False
    return _is_about(state, outcome, Identity(*numbers), output, now)


def _same_version(known: Identity, now: Identity) -> bool:
    same_content = (known.size, known.mtime_ns) == (now.size, now.mtime_ns)
    return same_content and (known.inode == now.inode or known.ctime_ns == now.ctime_ns)
