"""The database is durable, refuses other versions, and a damaged one is moved aside."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from lensd.errors import StorageError
from lensd.store.ledger import Ledger, Outcome
from tests.store.ledger.conftest import FIRST, ROOT, WATCH


def test_readers_write_nothing(tmp_path: Path, ledger: Ledger) -> None:
    """A reader beside a daemon sees the last commit and cannot change the ledger."""
    reader = Ledger(str(tmp_path), "1.0", readonly=True)
    ledger.jobs.enqueue("job", ROOT, WATCH, "a", FIRST)
    assert ["job"] == [e.job_id for e in reader.jobs.unfinished()]
    with pytest.raises(StorageError, match="cannot be written"):
        reader.jobs.update("job", attempts=1)
    reader.close()


def test_a_page_that_cannot_be_read_is_a_fault_of_the_disk(tmp_path: Path) -> None:
    """SQLite reports it as malformed; also after the start it is a StorageError and not a bug."""
    ledger = Ledger(str(tmp_path), "1.0")
    ledger.files.record_baseline(ROOT, WATCH, [(f"{n}.safetensors", FIRST) for n in range(500)])
    ledger.roots.add(ROOT, WATCH)
    ledger.close()
    ledger = Ledger(str(tmp_path), "1.0")  # the check at the start finds no damage
    path = tmp_path / "ledger.sqlite3"
    content = bytearray(path.read_bytes())
    content[3 * 4096 :] = b"\xff" * (len(content) - 3 * 4096)
    path.write_bytes(content)
    with pytest.raises(StorageError, match="cannot be read"):
        list(ledger.files.with_outcome(Outcome.BASELINE))
    ledger.close()


def test_a_commit_is_durable(tmp_path: Path) -> None:
    """synchronous=FULL with a WAL survives a power cut. Other users cannot read the file."""
    ledger = Ledger(str(tmp_path), "1.0")
    assert ledger._database.connection.execute("PRAGMA synchronous").fetchone()[0] == 2
    assert ledger._database.connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert (tmp_path / "ledger.sqlite3").stat().st_mode & 0o777 == 0o640
    ledger.close()


def test_a_ledger_of_a_later_lensd_is_refused(tmp_path: Path) -> None:
    """StorageError names the remedy, and the file is not changed."""
    path = tmp_path / "ledger.sqlite3"
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(StorageError, match="upgrade lensd"):
        Ledger(str(tmp_path), "1.0")
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (99,)
    db.close()


def _filled(folder: Path) -> Path:
    """A ledger of many pages, without a WAL."""
    ledger = Ledger(str(folder), "1.0")
    ledger.files.record_baseline(ROOT, WATCH, [(f"{n}.safetensors", FIRST) for n in range(500)])
    ledger.roots.add(ROOT, WATCH)
    ledger.close()
    return folder / "ledger.sqlite3"


def _truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2 + 100)


def _garbage_page(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(3 * 4096)
        file.write(os.urandom(4096))


def _no_header(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"no database at all")


def _empty(path: Path) -> None:
    """Beside a WAL, which SQLite would delete."""
    path.write_bytes(b"")


def _dumped(path: Path) -> None:
    """As `sqlite3 .dump` and `.read` make it: all tables, and no version."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 0")
        db.execute("PRAGMA journal_mode = DELETE")


@pytest.mark.parametrize("damage", [_truncated, _garbage_page, _no_header, _empty, _dumped])
def test_a_damaged_ledger_is_moved_aside(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    """With its WAL, byte for byte, and an empty one is created. A reader changes nothing.

    Two damaged ledgers within one second get different names.
    """
    asides = set()
    for _ in range(2):
        path = _filled(tmp_path)
        damage(path)
        content = path.read_bytes()
        wal = path.with_name(path.name + "-wal")
        wal.write_bytes(b"a WAL")
        with contextlib.suppress(StorageError):
            Ledger(str(tmp_path), "1.0", readonly=True).close()
        assert content == path.read_bytes()
        wal.write_bytes(b"a WAL")
        ledger = Ledger(str(tmp_path), "1.0")
        aside = Path(ledger.damaged or "")
        assert content == aside.read_bytes()
        assert not ledger.roots.knows(ROOT)
        ledger.close()
        asides.add(aside)
        ledger = Ledger(str(tmp_path), "1.0")
        assert ledger.damaged is None
        ledger.close()
        path.unlink()
    assert len(asides) == 2
    assert all(aside.exists() for aside in asides)


def test_an_error_of_the_disk_is_not_damage(tmp_path: Path) -> None:
    """A ledger that cannot be read is not moved aside: here the name is that of a folder."""
    (tmp_path / "ledger.sqlite3").mkdir()
    (tmp_path / "ledger.sqlite3" / "x").touch()
    with pytest.raises(StorageError, match="cannot be opened"):
        Ledger(str(tmp_path), "1.0")
    assert (tmp_path / "ledger.sqlite3" / "x").exists()


def test_an_empty_file_is_no_damage(tmp_path: Path) -> None:
    """A kill in the first moment of the first start leaves one."""
    path = tmp_path / "ledger.sqlite3"
    path.touch()
    with pytest.raises(StorageError, match="is empty"):
        Ledger(str(tmp_path), "1.0", readonly=True)
    with contextlib.closing(Ledger(str(tmp_path), "1.0")) as ledger:
        assert ledger.damaged is None
    assert [] == list(tmp_path.glob("*.damaged-*"))


def test_a_rollback_journal_is_no_damage(tmp_path: Path) -> None:
    """A kill while the ledger was converted leaves one. A reader names the remedy."""
    path = _filled(tmp_path)
    journal = path.with_name(f"{path.name}-journal")
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode = DELETE")
        db.execute("PRAGMA cache_spill = 1")
        db.execute("PRAGMA cache_size = 1")
        db.execute("UPDATE files SET state = 'half'")
        killed = {p: p.read_bytes() for p in (path, journal)}  # before the commit
        db.rollback()
    for at, content in killed.items():
        at.write_bytes(content)
    with pytest.raises(StorageError, match=r"killed .* completes it"):
        Ledger(str(tmp_path), "1.0", readonly=True)
    with contextlib.closing(Ledger(str(tmp_path), "1.0")) as ledger:
        assert ledger.damaged is None
        assert 500 == len(list(ledger.files.with_outcome(Outcome.BASELINE)))
    assert not journal.exists()
