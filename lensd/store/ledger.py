"""The ledger: every file version lensd saw, its state and its outcome. SQLite, durable at commit.

A row is one version of one file: (root, path, identity). Its `state` says what a restart has to
do, so that it is written before the step that it names:

    queued      nothing has happened yet
    running     the temporary may exist, half-written
    staged      the temporary is complete; its sha256 is known
    publishing  the original is in the archive; the two names may or may not be exchanged
    published   the output is in place; the temporary name may still hold the original
    done        finished; `outcome` says how

Outcomes: baseline (left alone), compressed, replaced (compressed once; a newer file took the name),
restored, analyzed, kept, skipped, failed, quarantined, superseded (another version came first).
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from operator import itemgetter
from typing import Any

from lensd.store.entry import Entry, row_key
from lensd.store.identity import Identity
from lensd.store.moves import Moves
from lensd.store.rows import PAGE, older_originals_moved, replace_older, update

_UNDER_WAY = ("running", "staged", "publishing", "published")

_NOT_PAUSED = """
NOT EXISTS (
    SELECT 1 FROM paused, (SELECT CAST(root || x'2f' || files.path AS BLOB) AS whole)
    WHERE paused.path IN (x'', whole)
       OR CAST(paused.path || x'2f' AS BLOB) = substr(whole, 1, length(paused.path) + 1)
)
"""


class Ledger(Moves):
    """Open the ledger in a state folder; `readonly` for those who do not hold its lock."""

    # what was seen

    def is_empty(self) -> bool:
        """Whether it never saw a folder: it is new, or an older one was lost."""
        return not self._read("SELECT 1 FROM roots LIMIT 1")

    def leave(self, root: str, watch: str, files: Iterable[tuple[str, Identity]]) -> None:
        """Record files of a folder that is seen for the first time as left alone."""
        with self._change() as db:
            for path, identity in files:
                self._insert(db, root, watch, path, identity, state="done", outcome="baseline")

    def baseline(self, root: str, watch: str) -> None:
        """Record a folder as seen: all of its files that were there are written down."""
        with self._change() as db:
            db.execute(
                "INSERT OR IGNORE INTO roots (root, watch, first_seen) VALUES (?, ?, ?)",
                (os.fsencode(root), watch, time.time()),
            )

    def newest(self, root: str, count: int) -> list[Entry]:
        """Of the files of a root, those that came last and had an end."""
        return self._all(
            "root = ? AND state = 'done' AND outcome <> 'superseded' AND NOT EXISTS ("
            "SELECT 1 FROM files AS newer WHERE newer.root = files.root "
            "AND newer.path = files.path AND newer.id > files.id "
            "AND newer.state = 'done' AND newer.outcome <> 'superseded') ORDER BY id DESC LIMIT ?",
            os.fsencode(root),
            count,
        )

    def find(self, root: str, path: str) -> Entry | None:
        """The newest row of a path."""
        return self._one("root = ? AND path = ? ORDER BY id DESC", *row_key(root, path))

    def knows(self, root: str, path: str, identity: Identity) -> Entry | None:
        """The newest row of a path, if it is about this version or one with the same content.

        Device numbers change across boots, inode numbers on some network filesystems and ctime
        with a chmod: size, mtime and one of inode and ctime are enough.
        """
        entry = self.find(root, path)
        if entry is None:
            return None
        row = entry.state, entry.outcome, entry.identity, entry.staged
        return entry if _knows(*row, identity) else None

    def unknown(
        self, root: str, files: Sequence[tuple[str, Identity]]
    ) -> list[tuple[str, Identity]]:
        """Of a few hundred files of a root those that `knows` does not know, by one query."""
        marks = ",".join("?" * len(files))
        query = (
            "SELECT id, path, state, outcome, device, inode, size, mtime_ns, ctime_ns, staged "  # noqa: S608
            f"FROM files WHERE root = ? AND path IN ({marks})"
        )
        rows = self._read(query, os.fsencode(root), *(os.fsencode(path) for path, _ in files))
        newest = {row["path"]: row for row in sorted(rows, key=itemgetter(0))}
        return [f for f in files if not _row_knows(newest.get(os.fsencode(f[0])), f[1])]

    def output(self, root: str, path: str, identity: Identity) -> Entry | None:
        """The compressed row whose output lies under a path, whatever was tried with it since."""
        entry = self.current(root, path)
        known = entry.staged if entry else None
        return entry if known and _same_version(known, identity) else None

    # jobs

    def enqueue(
        self, job_id: str, root: str, watch: str, path: str, identity: Identity,
        *, redo: bool = False, **columns: Any,
    ) -> Entry:  # fmt: skip
        """A settled file becomes a job; with `redo`, one that starts from the archived original."""
        with self._change() as db:
            self._insert(db, root, watch, path, identity, job_id=job_id, redo=redo)
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
        without: Collection[str] = (),
        heed_pauses: bool = True,
    ) -> Entry | None:
        """The job that waits longest; those with failed attempts come after the fresh ones.

        Not one that is paused (with `heed_pauses`), nor one that was postponed beyond `now` (wall
        time; default: now), nor one in a root of `without`.
        """
        if heed_pauses and "" in self.paused():  # or it would be found out for each of them
            return None
        moment = time.time() if now is None else now
        marks = ",".join("?" * len(without))
        return self._one(
            "state = 'queued' AND (not_before IS NULL OR not_before <= ?) "
            f"AND root NOT IN ({marks}) AND (? OR {_NOT_PAUSED}) ORDER BY attempts, id",
            moment,
            *map(os.fsencode, without),
            not heed_pauses,
        )

    def next_due(self, now: float | None = None) -> float | None:
        """The wall time at which a postponed job may be tried again, None without one."""
        query = "SELECT min(not_before) AS due FROM files WHERE state = 'queued' AND not_before > ?"
        due = self._read(query, time.time() if now is None else now)[0]["due"]
        return None if due is None else float(due)

    def postpone(self, job_id: str, not_before: float, reason: str, message: str) -> None:
        """The job begins again, but not before a wall time: a disk may be well again by then."""
        with self._change() as db:
            db.execute("UPDATE files SET retries = retries + 1 WHERE job_id = ?", (job_id,))
            update(db, job_id, {
                "state": "queued", "not_before": not_before, "reason": reason, "message": message,
                "outcome": None, "temporary": None, "staged": None,
            })  # fmt: skip

    def unfinished(self) -> Iterator[Entry]:
        """Jobs under way or waiting, oldest first."""
        return self._each("state", "queued", *_UNDER_WAY, also="state <> 'done'")

    def under_way(self) -> list[Entry]:
        """Jobs that have begun, oldest first."""
        return list(self._each("state", *_UNDER_WAY, also="state <> 'done'"))

    def count_unfinished(self) -> int:
        """How many jobs are under way or waiting."""
        return int(self._read("SELECT count(*) FROM files WHERE state <> 'done'")[0][0])

    def update(self, job_id: str, **columns: Any) -> None:
        """Write down a step, durably."""
        with self._change() as db:
            update(db, job_id, columns)
            if columns.get("state") == "published":
                db.execute("UPDATE files SET published = ? WHERE job_id = ?", (time.time(), job_id))

    def finish(self, job_id: str, outcome: str, **columns: Any) -> None:
        """The end of a job."""
        self.update(job_id, state="done", outcome=outcome, version=self._version, **columns)

    def record(
        self, job_id: str, root: str, watch: str, path: str, identity: Identity, **columns: Any
    ) -> None:
        """A version that is no job: refused, or lensd's own output."""
        with self._change() as db:
            self._insert(db, root, watch, path, identity, job_id=job_id, state="done")
            update(db, job_id, columns)

    def withdraw(self, job_id: str) -> None:
        """Delete a row that was recorded for a step which then changed nothing."""
        with self._change() as db:
            db.execute("DELETE FROM files WHERE job_id = ?", (job_id,))

    def release(self, entries: Iterable[Entry]) -> None:
        """Forget the outcome of these versions: the next look takes them as new."""
        with self._change() as db:
            for entry in entries:
                update(db, entry.job_id, {"outcome": "superseded"})

    def quarantined_before(self, version: str) -> list[Entry]:
        """Files that another version of lensd gave up."""
        return self._all("outcome = 'quarantined' AND version <> ? ORDER BY id", version)

    def unemitted(self) -> list[Entry]:
        """Compressed files whose log line a crash may have lost."""
        return self._all("outcome = 'compressed' AND emitted = 0 ORDER BY id")

    def times_published(self, root: str, path: str, sha256: str) -> int:
        """How often this original was compressed under this path."""
        query = (
            "SELECT count(*) FROM files WHERE root = ? AND path = ? AND sha256_in = ? "
            "AND outcome IN ('compressed', 'replaced') AND redo = 0"
        )
        return int(self._read(query, *row_key(root, path), sha256)[0][0])

    def replace_older(self, root: str, path: str, job_id: str) -> None:
        """The output of an earlier job lies under this path no longer; its original is kept.

        `Archive.keep` has moved that aside when it archived another one under the same name.
        """
        entry = self.get(job_id)
        with self._change() as db:
            replace_older(db, root, path, job_id)
            older_originals_moved(db, entry)

    def came_back(self, job_id: str, identity: Identity, archive_path: str, *, gone: bool) -> None:
        """An original was restored: its output is no more; `gone`: nor is it in the archive."""
        entry = self.get(job_id)
        with self._change() as db:
            db.execute(
                "UPDATE files SET device = ?, inode = ?, size = ?, mtime_ns = ?, ctime_ns = ? "
                "WHERE job_id = ?",
                (*identity, job_id),
            )
            replace_older(db, entry.root, entry.path, job_id)
            if gone:
                db.execute(
                    "UPDATE files SET archive_path = NULL WHERE archive_path = ? AND sha256_in = ?",
                    (os.fsencode(archive_path), entry.sha256_in),
                )

    def with_outcome(self, *outcomes: str) -> Iterator[Entry]:
        """Rows with one of these outcomes, oldest first."""
        return self._each("outcome", *outcomes)

    def archived_last(self, count: int) -> list[Entry]:
        """Of the compressed files with an original in the archive those that came last."""
        return self._all(
            "outcome = 'compressed' AND archive_path IS NOT NULL ORDER BY id DESC LIMIT ?", count
        )

    def older_than(self, moment: float) -> Iterator[Entry]:
        """Archived originals of outputs that were published before a wall time, oldest first."""
        last = -1.0, 0
        while page := self._all(  # with +, or else SQLite reads all compressed rows for each page
            "+outcome IN ('compressed', 'replaced') AND archive_path IS NOT NULL "
            "AND published < ? AND (published, id) > (?, ?) "
            f"ORDER BY published, id LIMIT {PAGE}",
            moment,
            *last,
        ):
            yield from page
            last = page[-1].published or 0.0, page[-1].number

    def current(self, root: str, path: str) -> Entry | None:
        """The compressed row whose output should lie under a path."""
        return self._one(
            "root = ? AND path = ? AND +outcome = 'compressed' ORDER BY id DESC",
            *row_key(root, path),
        )

    def pruned(self, job_id: str) -> None:
        """The archive has this original no more; nor have the other rows of the same file it."""
        entry = self.get(job_id)
        if entry.archive_path is None:
            return
        with self._change() as db:
            db.execute(
                "UPDATE files SET archive_path = NULL WHERE job_id = ? "
                "OR (archive_path = ? AND sha256_in = ?)",
                (job_id, os.fsencode(entry.archive_path), entry.sha256_in),
            )

    # totals

    def totals(self) -> dict[str, Any]:
        """Files by outcome; bytes saved in the folders and held by the archive."""
        counts = self._read(
            "SELECT outcome, count(*) AS n FROM files WHERE state = 'done' GROUP BY outcome"
        )
        saved = self._read(
            "SELECT coalesce(sum(bytes_in - bytes_out), 0) FROM files "
            "WHERE state = 'done' AND outcome = 'compressed'"
        )[0][0]
        held = self._read(
            "SELECT coalesce(sum(bytes_in), 0) FROM (SELECT DISTINCT archive_path, sha256_in, "
            "bytes_in FROM files WHERE archive_path IS NOT NULL AND state = 'done')"
        )[0][0]
        return {
            "outcomes": {r["outcome"]: r["n"] for r in counts},
            "saved_in_folders": saved,
            "held_by_archive": held,
            "net": saved - held,
        }


def _knows(
    state: str, outcome: str | None, identity: Identity, staged: Identity | None, now: Identity
) -> bool:
    """Whether a path's newest row is about what lies there now."""
    if outcome == "superseded":
        return False
    if _same_version(staged or identity, now):
        return True
    # the exchange may come between the event and the ledger
    return state != "done" and _same_version(identity, now)


def _row_knows(row: sqlite3.Row | None, now: Identity) -> bool:
    if row is None:
        return False
    _, _, state, outcome, *numbers, staged = row
    output = Identity(*json.loads(staged)) if staged else None
    return _knows(state, outcome, Identity(*numbers), output, now)


def _same_version(known: Identity, now: Identity) -> bool:
    same_content = (known.size, known.mtime_ns) == (now.size, now.mtime_ns)
    return same_content and (known.inode == now.inode or known.ctime_ns == now.ctime_ns)
