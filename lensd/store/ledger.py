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

import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

from lensd.errors import StorageError
from lensd.store.entry import Entry, entry_of, row_key, stored, text
from lensd.store.identity import Identity

SCHEMA_VERSION = 1

_SCHEMA = """
CREATE TABLE roots (root BLOB PRIMARY KEY, watch TEXT NOT NULL, first_seen REAL NOT NULL);
CREATE TABLE files (
    id INTEGER PRIMARY KEY,
    job_id TEXT NOT NULL UNIQUE,
    root BLOB NOT NULL, watch TEXT NOT NULL, path BLOB NOT NULL,
    device INTEGER NOT NULL, inode INTEGER NOT NULL, size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL, ctime_ns INTEGER NOT NULL,
    state TEXT NOT NULL, outcome TEXT, reason TEXT, message TEXT,
    attempts INTEGER NOT NULL DEFAULT 0,
    redo INTEGER NOT NULL DEFAULT 0,
    temporary TEXT, staged TEXT,
    sha256_in TEXT, sha256_out TEXT, bytes_in INTEGER, bytes_out INTEGER,
    archive_path BLOB, archive_method TEXT,
    line TEXT, emitted INTEGER NOT NULL DEFAULT 0,
    version TEXT NOT NULL, created REAL NOT NULL, updated REAL NOT NULL
);
CREATE INDEX files_by_path ON files (root, path);
CREATE INDEX files_open ON files (state) WHERE state <> 'done';
CREATE INDEX files_by_outcome ON files (outcome);
CREATE TABLE waiting (
    root BLOB NOT NULL, path BLOB NOT NULL, watch TEXT NOT NULL, reason TEXT NOT NULL,
    since REAL NOT NULL, PRIMARY KEY (root, path)
);
"""


class Ledger:
    """Open the ledger in a state folder; `readonly` for those who do not hold its lock."""

    def __init__(self, folder: str, version: str, *, readonly: bool = False) -> None:
        self._version = version
        self._lock = threading.RLock()
        path = os.path.join(folder, "ledger.sqlite3")
        if readonly and not os.path.exists(path):
            raise StorageError(
                f"there is no ledger in {folder} yet: lensd has not run with this configuration; "
                "`lensd once` or `lensd run` makes it"
            )
        try:
            self._db = _connect(path, readonly=readonly)
            if not readonly:
                self._prepare()
            self._check_version(path)
        except (sqlite3.Error, OSError) as error:
            raise StorageError(
                f"the ledger {path} cannot be opened: {error}. Check the disk and the rights; a "
                "damaged one may be moved away: archive and compressed files stand for themselves"
            ) from None

    def close(self) -> None:
        self._db.close()

    # what was seen

    def is_empty(self) -> bool:
        """Whether it never saw a folder: it is new, or an older one was lost."""
        return not self._rows("SELECT 1 FROM roots LIMIT 1")

    def knows_root(self, root: str) -> bool:
        return bool(self._rows("SELECT 1 FROM roots WHERE root = ?", os.fsencode(root)))

    def baseline(self, root: str, watch: str, files: Iterable[tuple[str, Identity]]) -> None:
        """Record a folder seen for the first time, and the files that lie there, as left alone."""
        with self._change() as db:
            for path, identity in files:
                self._insert(db, root, watch, path, identity, state="done", outcome="baseline")
            db.execute(
                "INSERT OR IGNORE INTO roots VALUES (?, ?, ?)",
                (os.fsencode(root), watch, time.time()),
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
        if entry is None or entry.outcome == "superseded":
            return None
        known = [entry.staged or entry.identity]
        if entry.state != "done":  # the exchange may come between the event and the ledger
            known.append(entry.identity)
        return entry if any(_same_version(k, identity) for k in known) else None

    def output(self, root: str, path: str, identity: Identity) -> Entry | None:
        """The compressed row whose output lies under a path, whatever was tried with it since."""
        entry = self._one(
            "root = ? AND path = ? AND outcome = 'compressed' ORDER BY id DESC",
            *row_key(root, path),
        )
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
            _update(db, job_id, columns)
        return self.get(job_id)

    def get(self, job_id: str) -> Entry:
        """The row of a job that is there."""
        return self._all("job_id = ?", job_id)[0]

    def next_queued(self) -> Entry | None:
        """The job that waits longest; those with failed attempts come after the fresh ones."""
        return self._one("state = 'queued' ORDER BY attempts, id")

    def unfinished(self) -> list[Entry]:
        """Jobs under way or waiting, oldest first."""
        return self._all("state <> 'done' ORDER BY id")

    def update(self, job_id: str, **columns: Any) -> None:
        """Write down a step, durably."""
        with self._change() as db:
            _update(db, job_id, columns)

    def finish(self, job_id: str, outcome: str, **columns: Any) -> None:
        """The end of a job."""
        self.update(job_id, state="done", outcome=outcome, version=self._version, **columns)

    def record(
        self, job_id: str, root: str, watch: str, path: str, identity: Identity, **columns: Any
    ) -> None:
        """A version that is no job: refused, or lensd's own output."""
        with self._change() as db:
            self._insert(db, root, watch, path, identity, job_id=job_id, state="done")
            _update(db, job_id, columns)

    def release(self, entries: Iterable[Entry]) -> None:
        """Forget the outcome of these versions: the next look takes them as new."""
        with self._change() as db:
            for entry in entries:
                _update(db, entry.job_id, {"outcome": "superseded"})

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
        return int(self._rows(query, *row_key(root, path), sha256)[0][0])

    def replace_older(self, root: str, path: str, job_id: str) -> None:
        """The output of an earlier job lies under this path no longer; its original is kept."""
        with self._change() as db:
            _replace_older(db, root, path, job_id)

    def came_back(self, job_id: str, identity: Identity, archive_path: str, *, gone: bool) -> None:
        """An original was restored: its output is no more; `gone`: nor is it in the archive."""
        entry = self.get(job_id)
        with self._change() as db:
            db.execute(
                "UPDATE files SET device = ?, inode = ?, size = ?, mtime_ns = ?, ctime_ns = ? "
                "WHERE job_id = ?",
                (*identity, job_id),
            )
            _replace_older(db, entry.root, entry.path, job_id)
            if gone:
                db.execute(
                    "UPDATE files SET archive_path = NULL WHERE archive_path = ?",
                    (os.fsencode(archive_path),),
                )

    def with_outcome(self, *outcomes: str) -> list[Entry]:
        marks = ",".join("?" * len(outcomes))
        return self._all(f"outcome IN ({marks}) ORDER BY id", *outcomes)

    # waiting files and totals

    def set_waiting(self, root: str, path: str, watch: str, reason: str | None) -> None:
        """Why a file is not a job yet; None when it no longer waits."""
        key = row_key(root, path)
        with self._change() as db:
            if reason is None:
                db.execute("DELETE FROM waiting WHERE root = ? AND path = ?", key)
            else:
                db.execute(
                    "INSERT INTO waiting VALUES (?, ?, ?, ?, ?) "
                    "ON CONFLICT DO UPDATE SET reason = excluded.reason",
                    (*key, watch, text(reason), time.time()),
                )

    def clear_waiting(self) -> None:
        with self._change() as db:
            db.execute("DELETE FROM waiting")

    def waiting(self) -> list[dict[str, Any]]:
        rows = self._rows("SELECT * FROM waiting ORDER BY since")
        return [
            {"path": os.path.join(os.fsdecode(r["root"]), os.fsdecode(r["path"])),
             "watch": r["watch"], "reason": r["reason"], "since": r["since"]}
            for r in rows
        ]  # fmt: skip

    def totals(self) -> dict[str, Any]:
        """Files by outcome; bytes saved in the folders and held by the archive."""
        counts = self._rows(
            "SELECT outcome, count(*) AS n FROM files WHERE state = 'done' GROUP BY outcome"
        )
        [[saved]] = self._rows(
            "SELECT coalesce(sum(bytes_in - bytes_out), 0) FROM files WHERE outcome = 'compressed'"
        )
        [[held]] = self._rows(
            "SELECT coalesce(sum(bytes_in), 0) FROM (SELECT DISTINCT archive_path, sha256_in, "
            "bytes_in FROM files WHERE archive_path IS NOT NULL AND state = 'done')"
        )
        return {
            "outcomes": {r["outcome"]: r["n"] for r in counts},
            "saved_in_folders": saved,
            "held_by_archive": held,
            "net": saved - held,
        }

    # inside

    def _prepare(self) -> None:
        if self._db.execute("PRAGMA user_version").fetchone()[0] == 0:
            self._db.executescript(
                f"BEGIN; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
            )

    def _check_version(self, path: str) -> None:
        found = self._db.execute("PRAGMA user_version").fetchone()[0]
        if found not in (0, SCHEMA_VERSION):
            raise StorageError(
                f"the ledger {path} was written by another version of lensd (schema {found}, this "
                f"is {SCHEMA_VERSION}); upgrade lensd, or use another state folder"
            )

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

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        with self._lock, _disk_faults("written"), self._db:
            yield self._db

    def _one(self, where: str, *values: Any) -> Entry | None:
        found = self._all(where + " LIMIT 1", *values)
        return found[0] if found else None

    def _all(self, where: str, *values: Any) -> list[Entry]:
        query = f"SELECT * FROM files WHERE {where}"  # noqa: S608  `where` is a constant of ours
        return [entry_of(row) for row in self._rows(query, *values)]

    def _rows(self, query: str, *values: Any) -> list[sqlite3.Row]:
        with self._lock, _disk_faults("read"):
            return self._db.execute(query, values).fetchall()


def _connect(path: str, *, readonly: bool) -> sqlite3.Connection:
    name = f"file:{_quoted(path)}?mode={'ro' if readonly else 'rwc'}"
    db = sqlite3.connect(name, uri=True, check_same_thread=False, timeout=30)
    db.row_factory = sqlite3.Row
    if not readonly:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA cache_size = -1024")  # KiB: the daemon has to stay small
        os.chmod(path, 0o640)
    return db


@contextmanager
def _disk_faults(done: str) -> Iterator[None]:
    """SQLite calls a page that cannot be read malformed: it cannot know better."""
    try:
        yield
    except (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.DataError):
        raise
    except sqlite3.DatabaseError as error:
        raise StorageError(
            f"the ledger cannot be {done}: {error}. Free space on the disk of the state folder, or "
            "check it; a damaged ledger may be moved away"
        ) from None


def _quoted(path: str) -> str:
    return quote(os.fsencode(path))


def _replace_older(db: sqlite3.Connection, root: str, path: str, job_id: str) -> None:
    db.execute(
        "UPDATE files SET outcome = 'replaced' WHERE root = ? AND path = ? "
        "AND outcome = 'compressed' AND job_id <> ?",
        (*row_key(root, path), job_id),
    )


def _update(db: sqlite3.Connection, job_id: str, columns: Mapping[str, Any]) -> None:
    assignments = ", ".join(f"{name} = ?" for name in (*columns, "updated"))
    values = [stored(name, value) for name, value in columns.items()] + [time.time()]
    query = f"UPDATE files SET {assignments} WHERE job_id = ?"  # noqa: S608  keywords of ours
    db.execute(query, (*values, job_id))


def _same_version(known: Identity, now: Identity) -> bool:
    same_content = (known.size, known.mtime_ns) == (now.size, now.mtime_ns)
    return same_content and (known.inode == now.inode or known.ctime_ns == now.ctime_ns)
