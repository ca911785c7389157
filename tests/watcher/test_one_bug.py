"""A bug, or a damaged row of the ledger, concerns one file: the others go on."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from lensd.store.identity import Identity, signed
from lensd.store.ledger import LEDGER, Ledger, Outcome
from tests.watcher.test_intake import App

# The ledger refuses all rows of one path, which is a bug for lensd.
REFUSE = """
CREATE TRIGGER refuse BEFORE INSERT ON files WHEN NEW.path = CAST('b.safetensors' AS BLOB)
BEGIN SELECT RAISE(ABORT, 'no such row'); END
"""
YEAR_2400_NS = 13_569_465_600 * 10**9


def change(app: App, query: str, *values: object) -> None:
    """Change the ledger as no version of lensd does."""
    with closing(sqlite3.connect(app.loras.parent / "state" / LEDGER)) as db, db:
        db.execute(query, values)


@pytest.fixture
def app(tmp_path: Path) -> Iterator[App]:
    app = App(tmp_path)
    app.ledger.roots.add(str(app.loras), "loras")
    app.write("a.safetensors", "b.safetensors", "c.safetensors")
    yield app
    app.ledger.close()


def look_three_times(app: App) -> None:
    now = 0.0
    for _ in range(3):
        app.intake.scan(app.folder, now)
        now = app.settle(now)


def test_a_bug_ends_one_file(app: App) -> None:
    """It is logged once, and only a new version of the file is looked at again."""
    change(app, REFUSE)
    look_three_times(app)
    [failed] = [e for e in app.said if e.name == "file.failed"]
    assert "no such row" in failed.message  # type: ignore[attr-defined]
    assert app.events()["file.skipped"] == 2
    assert app.intake.pending == 0
    app.write("b.safetensors")
    look_three_times(app)
    assert app.events()["file.failed"] == 2


@pytest.mark.parametrize("path", ["/etc/x", "../x", "a\0b"])
def test_a_row_with_an_impossible_path_is_left_out(app: App, path: str) -> None:
    """It is an output that looks lost, and has the inode of a file: nothing follows or ends."""
    identity = Identity.of((app.loras / "b.safetensors").lstat())
    app.ledger.files.record(
        "odd", str(app.loras), "loras", "odd", identity, outcome=Outcome.COMPRESSED, staged=identity
    )
    change(app, "UPDATE files SET path = ? WHERE job_id = 'odd'", path.encode())
    found: list[int] = []
    app.ledger.on_damaged_row(lambda row, _: found.append(row))
    app.intake.follow_moved_files()
    look_three_times(app)
    assert app.events() == {"file.detected": 3, "file.skipped": 3}
    assert len(found) == 1


@pytest.fixture
def new_folder(app: App) -> App:
    """The ledger has not seen the folder yet."""
    change(app, "DELETE FROM roots")
    return app


def test_a_bug_at_the_first_look_costs_one_file(new_folder: App) -> None:
    """The others are left alone, as `existing: leave` says; the start goes on."""
    app = new_folder
    change(app, REFUSE)
    counted = app.baseline()
    assert counted is not None
    assert counted[0] == 2
    assert app.events() == {"file.failed": 1}
    assert app.ledger.roots.knows(str(app.loras))
    look_three_times(app)
    assert app.events()["file.skipped"] == 0


def test_a_file_whose_row_cannot_follow_costs_no_other(new_folder: App) -> None:
    """The ledger refuses the move of one row: at the first look, and at the start of `once`."""
    app = new_folder
    for name in ("a", "b"):
        path = app.loras / f"{name}.safetensors"
        app.ledger.files.record(
            name, str(app.loras), "loras", f"old {name}", Identity.of(path.lstat()),
            outcome=Outcome.SKIPPED,
        )  # fmt: skip
    change(app, REFUSE.replace("INSERT", "UPDATE"))
    app.intake.follow_moved_files()
    assert app.events() == {"file.failed": 1, "file.moved": 1}
    assert app.baseline() is not None
    assert app.events() == {"file.failed": 2, "file.moved": 1}
    newest = app.ledger.files.find(str(app.loras), "b.safetensors")
    assert newest is not None
    assert newest.outcome == Outcome.BASELINE


@pytest.mark.parametrize(("column", "value"), [("staged", "{}"), ("staged", "[1]"), ("line", "{")])
def test_a_damaged_row_is_left_out(app: App, column: str, value: str) -> None:
    """It is reported once, and the other rows are read."""
    look_three_times(app)
    found: list[int] = []
    app.ledger.on_damaged_row(lambda row, _: found.append(row))
    change(app, f"UPDATE files SET {column} = ? WHERE path = ?", value, b"b.safetensors")  # noqa: S608
    assert len(list(app.ledger.files.with_outcome(Outcome.SKIPPED))) == 2
    look_three_times(app)
    assert len(found) == 1
    entry = app.ledger.files.find(str(app.loras), "b.safetensors")
    assert entry is None or entry.number not in found


def test_a_damaged_row_does_not_block_the_queue(app: App) -> None:
    """The next job that is sound comes instead."""
    for name in ("a", "b"):
        identity = Identity.of((app.loras / f"{name}.safetensors").lstat())
        app.ledger.jobs.enqueue(name, str(app.loras), "loras", f"{name}.safetensors", identity)
    change(app, "UPDATE files SET line = '{' WHERE job_id = 'a'")
    queued = app.ledger.jobs.next_queued()
    assert queued is not None
    assert queued.job_id == "b"


@pytest.mark.parametrize("number", [2**63 - 1, 2**63, 2**64 - 1, 12_345])
def test_large_inodes_are_kept(tmp_path: Path, number: int) -> None:
    """The row of such a file is found by path and by inode, as input and as output."""
    identity = Identity(signed(number), signed(number), 1, 2, 3)
    with closing(Ledger(str(tmp_path), "1")) as ledger:
        ledger.jobs.enqueue("a", "/r", "r", "f", Identity(1, 2, 3, 4, 5))
        ledger.jobs.update("a", staged=identity)
        ledger.jobs.finish("a", Outcome.COMPRESSED)
        ledger.jobs.enqueue("b", "/r", "r", "g", identity)
        assert ledger.jobs.get("b").identity == identity == ledger.jobs.get("a").staged
        assert {e.job_id for e in ledger.files.same_file(identity)} == {"a", "b"}
        assert ledger.files.knows("/r", "g", identity)
    assert identity.inode % 2**64 == number


def test_a_time_beyond_64_bits_ends_nothing(app: App) -> None:
    """SQLite has no such integer either: the file is one as any other."""
    os.utime(app.loras / "b.safetensors", ns=(YEAR_2400_NS, YEAR_2400_NS))
    if (app.loras / "b.safetensors").stat().st_mtime_ns != YEAR_2400_NS:
        pytest.skip("the filesystem has no such times")
    look_three_times(app)
    assert app.events()["file.skipped"] == 3
