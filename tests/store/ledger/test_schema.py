"""An older ledger is converted."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from lensd.errors import StorageError
from lensd.store.ledger import JobState, Ledger

OLD = Path(__file__).parent / "schema_1.sql"


def test_a_ledger_of_schema_1_is_converted(tmp_path: Path) -> None:
    """Nothing is lost; a reader names the remedy; a second start changes nothing."""
    path = tmp_path / "ledger.sqlite3"
    with sqlite3.connect(path) as db:
        db.executescript(OLD.read_text())
        before = db.execute("SELECT * FROM files ORDER BY id").fetchall()
    db.close()
    with pytest.raises(StorageError, match=r"older lensd .* converts it"):
        Ledger(str(tmp_path), "1.0", readonly=True)
    for _ in range(2):
        ledger = Ledger(str(tmp_path), "1.0")
        after = ledger._database.connection.execute("SELECT * FROM files ORDER BY id").fetchall()
        assert before == [tuple(row)[: len(before[0])] for row in after]
        waits = ledger.jobs.next_queued()
        assert waits is not None
        assert waits.job_id == "aaaaaaaaaaaaaaaa"
        assert ["bbbbbbbbbbbbbbbb"] == [
            e.job_id for e in ledger.jobs.unfinished() if e.state != JobState.QUEUED
        ]
        [replaced, compressed] = ledger.originals.published_before(2e9)
        assert (replaced.outcome, compressed.outcome) == ("replaced", "compressed")
        assert compressed.published == compressed.updated
        assert ledger.roots.knows("/srv/loras")
        assert ledger.roots.get_identity("/srv/loras") is None
        assert len(ledger.state.waiting()) == 1
        ledger.close()


def test_a_conversion_that_fails_leaves_the_old_ledger(tmp_path: Path) -> None:
    """The conversion is one transaction; here a table of the new schema exists already."""
    path = tmp_path / "ledger.sqlite3"
    with sqlite3.connect(path) as db:
        db.executescript(OLD.read_text())
        db.execute("CREATE TABLE paused (since REAL)")
    db.close()
    with pytest.raises(StorageError, match="cannot be opened"):
        Ledger(str(tmp_path), "1.0")
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (1,)
        assert "not_before" not in [row[1] for row in db.execute("PRAGMA table_info(files)")]
    db.close()
