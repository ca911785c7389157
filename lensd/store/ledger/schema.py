"""The ledger's tables, and the conversion of an older schema."""

from __future__ import annotations

import sqlite3

SCHEMA_VERSION = 3

_FIRST = """
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

# Indexes for files that move (inode, original); when a job may be tried again and when its output
# was published (wall times); the identity of each root; notes; pauses.
_SECOND = """
ALTER TABLE files ADD COLUMN not_before REAL;
ALTER TABLE files ADD COLUMN retries INTEGER NOT NULL DEFAULT 0;
ALTER TABLE files ADD COLUMN published REAL;
UPDATE files SET published = updated WHERE outcome IN ('compressed', 'replaced');
CREATE INDEX files_by_inode ON files (inode, size, mtime_ns);
CREATE INDEX files_by_original ON files (sha256_in) WHERE sha256_in IS NOT NULL;
CREATE INDEX files_by_archive ON files (archive_path) WHERE archive_path IS NOT NULL;
CREATE INDEX files_by_output ON files (json_extract(staged, '$[1]')) WHERE staged IS NOT NULL;
CREATE INDEX files_queued ON files (attempts, id) WHERE state = 'queued';
ALTER TABLE roots ADD COLUMN device INTEGER;
ALTER TABLE roots ADD COLUMN inode INTEGER;
ALTER TABLE roots ADD COLUMN mount TEXT;
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE paused (path BLOB PRIMARY KEY, since REAL NOT NULL);
"""

# With 100,000 files, no query of a start, of the daily pass, of a folder that came back, or of the
# totals reads every row.
_THIRD = """
CREATE INDEX files_by_root ON files (root);
CREATE INDEX files_unemitted ON files (emitted) WHERE outcome = 'compressed' AND emitted = 0;
CREATE INDEX files_by_age ON files (published) WHERE archive_path IS NOT NULL;
CREATE INDEX files_postponed ON files (not_before) WHERE state = 'queued';
CREATE INDEX files_ended ON files (outcome, bytes_in, bytes_out) WHERE state = 'done';
DROP INDEX files_by_archive;
CREATE INDEX files_by_archive ON files (archive_path, sha256_in, bytes_in, state)
    WHERE archive_path IS NOT NULL;
"""

# A column that an older lensd does not miss, so that it needs no other version of the schema: what
# `ObservedTime` said when the output was published; NULL: an older lensd published it.
_OBSERVED = "ALTER TABLE files ADD COLUMN observed REAL"

# An index, which an older lensd does not miss either: the next job of one root.
_QUEUED_BY_ROOT = (
    "CREATE INDEX IF NOT EXISTS files_queued_by_root ON files (root, attempts, id) "
    "WHERE state = 'queued'"
)

# As little missed by an older lensd: what a person has deleted.
_GONE = (
    "CREATE TABLE IF NOT EXISTS gone (job_id TEXT NOT NULL, what TEXT NOT NULL, "
    "since REAL NOT NULL, PRIMARY KEY (job_id, what))"
)

_STEPS = (_FIRST, _SECOND, _THIRD)


def prepare(db: sqlite3.Connection) -> None:
    """Create the tables, or convert an older ledger, in one transaction."""
    found = version_of(db)
    if found < SCHEMA_VERSION:
        steps = "".join(_STEPS[found:])
        try:
            db.executescript(f"BEGIN; {steps} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
        except sqlite3.Error:
            db.rollback()
            raise
    columns = [row[1] for row in db.execute("PRAGMA table_info(files)")]
    if version_of(db) == SCHEMA_VERSION and "observed" not in columns:
        db.execute(_OBSERVED)
    if version_of(db) == SCHEMA_VERSION:
        db.execute(_GONE)
        db.execute(_QUEUED_BY_ROOT)


def version_of(db: sqlite3.Connection) -> int:
    """The number of a database's schema; 0 for an empty database."""
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def is_complete(db: sqlite3.Connection) -> bool:
    """False for tables without a version: `prepare` commits both together."""
    return version_of(db) > 0 or not db.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchone()
