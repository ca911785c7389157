"""What the ledger remembers of files, also of odd ones, across a restart."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lensd.errors import StorageError
from lensd.store.identity import Identity
from lensd.store.ledger import Columns, JobState, Ledger, Outcome

ROOT, WATCH = "/srv/loras", "loras"
FIRST = Identity(1, 10, 100, 5_000, 6_000)
ODD = os.fsdecode(b"caf\xe9\n.safetensors")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(str(tmp_path), "1.0")
    yield ledger
    ledger.close()


def _again(tmp_path: Path, version: str = "1.0", *, readonly: bool = False) -> Ledger:
    return Ledger(str(tmp_path), version, readonly=readonly)


def test_a_job_survives_a_restart_with_all_its_columns(tmp_path: Path) -> None:
    """Names need not be UTF-8 or of one line; identities and lines come back as they were."""
    ledger = _again(tmp_path)
    ledger.jobs.enqueue("job", ROOT, WATCH, ODD, FIRST)
    staged = FIRST._replace(inode=11)
    line = {"path": f"{ROOT}/{ODD}", "seconds": {"total": 1.5}}
    ledger.jobs.update(
        "job", state=JobState.PUBLISHING, staged=staged, line=line, archive_path=f"/a/{ODD}"
    )
    ledger.close()
    ledger = _again(tmp_path)
    entry = ledger.jobs.get("job")
    ledger.close()
    assert (entry.path, entry.identity, entry.staged) == (ODD, FIRST, staged)
    assert (entry.line, entry.archive_path) == (line, f"/a/{ODD}")
    assert entry.full_path == f"{ROOT}/{ODD}"
    assert entry.state == JobState.PUBLISHING


def test_messages_may_name_any_file(ledger: Ledger) -> None:
    """A text for people with a name that is not UTF-8 in it is stored readably."""
    ledger.jobs.enqueue("job", ROOT, WATCH, ODD, FIRST)
    ledger.jobs.finish("job", Outcome.FAILED, reason="io_error", message=f"{ODD} is broken")
    assert ledger.jobs.get("job").message == "caf\\xe9\n.safetensors is broken"
    ledger.state.set_waiting(ROOT, ODD, WATCH, f"{ODD}.part lies beside it")
    assert "caf\\xe9" in ledger.state.waiting()[0].reason


@pytest.mark.parametrize(
    ("change", "known"),
    [
        ({}, True),
        ({"device": 2}, True),
        ({"inode": 11}, True),
        ({"ctime_ns": 1}, True),
        ({"inode": 11, "ctime_ns": 1}, False),
        ({"size": 101}, False),
        ({"mtime_ns": 1}, False),
    ],
)
def test_a_version_is_known_by_its_content(
    ledger: Ledger, change: dict[str, int], *, known: bool
) -> None:
    """Device numbers change with a reboot, ctime with a chmod, inodes on some network disks."""
    ledger.files.record("job", ROOT, WATCH, "a", FIRST, outcome=Outcome.KEPT)
    found = ledger.files.knows(ROOT, "a", FIRST._replace(**change))
    assert (found is not None) == known
    assert ledger.files.knows(ROOT, "b", FIRST) is None


def test_an_output_is_known_where_the_original_was(ledger: Ledger) -> None:
    """While the job goes on both are known, afterwards the output alone."""
    output = FIRST._replace(inode=20, size=30, ctime_ns=9)
    ledger.jobs.enqueue("job", ROOT, WATCH, "a", FIRST)
    ledger.jobs.update("job", state=JobState.PUBLISHING, staged=output)
    assert ledger.files.knows(ROOT, "a", FIRST)
    assert ledger.files.knows(ROOT, "a", output)
    ledger.jobs.finish("job", Outcome.COMPRESSED)
    assert ledger.files.knows(ROOT, "a", FIRST) is None
    assert ledger.files.knows(ROOT, "a", output)


def test_the_queue_is_in_order_and_failed_attempts_come_last(ledger: Ledger) -> None:
    """So that one file that kills the worker holds up nobody."""
    for name in ("first", "second", "third"):
        ledger.jobs.enqueue(name, ROOT, WATCH, name, FIRST)
    ledger.jobs.update("first", attempts=1)
    order = []
    while (entry := ledger.jobs.next_queued()) is not None:
        order.append(entry.job_id)
        ledger.jobs.finish(entry.job_id, Outcome.COMPRESSED)
    assert order == ["second", "third", "first"]


def test_a_released_version_is_unknown_again(ledger: Ledger) -> None:
    """`once` asked for it, or a new version of lensd gave it another chance."""
    ledger.files.record_baseline(ROOT, WATCH, [("a", FIRST), ("b", FIRST)])
    ledger.roots.add(ROOT, WATCH)
    entry = ledger.files.knows(ROOT, "a", FIRST)
    assert entry is not None
    assert entry.outcome == Outcome.BASELINE
    ledger.jobs.release([entry])
    assert ledger.files.knows(ROOT, "a", FIRST) is None
    assert ledger.files.knows(ROOT, "b", FIRST)


def test_another_versions_quarantine_is_found(tmp_path: Path, ledger: Ledger) -> None:
    """A file that the running version gave up itself is not."""
    ledger.jobs.enqueue("job", ROOT, WATCH, "a", FIRST)
    ledger.jobs.finish("job", Outcome.QUARANTINED)
    assert [] == ledger.jobs.quarantined_before("1.0")
    ledger.close()
    newer = _again(tmp_path, "1.1")
    assert ["job"] == [entry.job_id for entry in newer.jobs.quarantined_before("1.1")]
    newer.close()


def test_how_often_an_original_was_published(ledger: Ledger) -> None:
    """Each time that it came to this path; a redo is the person's own wish."""
    for job in ("one", "two", "redone"):
        ledger.jobs.enqueue(job, ROOT, WATCH, "a", FIRST, redo=job == "redone")
        ledger.jobs.finish(job, Outcome.COMPRESSED, sha256_in="abc")
        ledger.files.replace_older(ROOT, "a", job)
    ledger.jobs.enqueue("other", ROOT, WATCH, "b", FIRST)
    ledger.jobs.finish("other", Outcome.COMPRESSED, sha256_in="abc")
    assert ledger.originals.count_published(ROOT, "a", "abc") == 2
    assert ledger.originals.count_published(ROOT, "a", "abd") == 0
    assert ["redone", "other"] == [e.job_id for e in ledger.files.with_outcome(Outcome.COMPRESSED)]


def test_totals_count_each_archived_original_once(ledger: Ledger) -> None:
    """Saved in the folders, held by the archive, and the difference."""
    archived: Columns = {
        "sha256_in": "abc",
        "bytes_in": 100,
        "bytes_out": 30,
        "archive_path": "/archive/a",
    }
    for job in ("one", "two"):
        ledger.jobs.enqueue(job, ROOT, WATCH, "a", FIRST)
        ledger.jobs.finish(job, Outcome.COMPRESSED, **archived)
        ledger.files.replace_older(ROOT, "a", job)
    totals = ledger.files.totals()
    assert totals.outcomes == {"compressed": 1, "replaced": 1}
    assert (totals.saved_in_folders, totals.held_by_archive, totals.net) == (70, 100, -30)
    restored: Columns = {
        "outcome": Outcome.RESTORED,
        "archive_path": "/archive/a",
        "sha256_in": "abc",
    }
    ledger.files.record("back", ROOT, WATCH, "a", FIRST, **restored)
    ledger.originals.record_restored("back", FIRST, "/archive/a", gone=True)
    totals = ledger.files.totals()
    assert (totals.saved_in_folders, totals.held_by_archive) == (0, 0)


def test_a_root_is_new_once(ledger: Ledger) -> None:
    """Also when it was empty. A ledger that knows none is new."""
    assert not ledger.roots.knows(ROOT)
    assert ledger.roots.is_empty()
    ledger.roots.add(ROOT, WATCH)
    assert ledger.roots.knows(ROOT)
    assert not ledger.roots.is_empty()


def test_readers_write_nothing(tmp_path: Path, ledger: Ledger) -> None:
    """`status` beside a daemon: it sees the latest, and cannot change it."""
    reader = _again(tmp_path, readonly=True)
    ledger.jobs.enqueue("job", ROOT, WATCH, "a", FIRST)
    assert ["job"] == [e.job_id for e in reader.jobs.unfinished()]
    with pytest.raises(StorageError, match="cannot be written"):
        reader.jobs.update("job", attempts=1)
    reader.close()


def test_a_page_that_cannot_be_read_is_a_fault_of_the_disk(tmp_path: Path) -> None:
    """SQLite calls it malformed; it is no bug of lensd's, also when it shows late."""
    ledger = _again(tmp_path)
    ledger.files.record_baseline(ROOT, WATCH, [(f"{n}.safetensors", FIRST) for n in range(500)])
    ledger.roots.add(ROOT, WATCH)
    ledger.close()
    ledger = _again(tmp_path)  # sound, so far
    path = tmp_path / "ledger.sqlite3"
    content = bytearray(path.read_bytes())
    content[3 * 4096 :] = b"\xff" * (len(content) - 3 * 4096)
    path.write_bytes(content)
    with pytest.raises(StorageError, match="cannot be read"):
        list(ledger.files.with_outcome(Outcome.BASELINE))
    ledger.close()


def test_it_is_durable_at_commit(tmp_path: Path) -> None:
    """synchronous=FULL with a WAL: what was said survives a power cut. Others may not read it."""
    ledger = _again(tmp_path)
    assert ledger._database.connection.execute("PRAGMA synchronous").fetchone()[0] == 2
    assert ledger._database.connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert (tmp_path / "ledger.sqlite3").stat().st_mode & 0o777 == 0o640
    ledger.close()


def test_a_ledger_of_a_later_lensd_is_refused(tmp_path: Path) -> None:
    """StorageError with the remedy, and the file stays as it is."""
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
    """A ledger of many pages, all of them in the file itself."""
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
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [_truncated, _garbage_page, _no_header, _empty])
def test_a_damaged_ledger_is_moved_aside(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    """With what belongs to it, byte for byte; a new one takes its place. A reader changes nothing.

    Of a second one within the same second too.
    """
    asides = set()
    for _ in range(2):
        path = _filled(tmp_path)
        damage(path)
        content = path.read_bytes()
        wal = path.with_name(path.name + "-wal")
        wal.write_bytes(b"what belongs to it")
        with contextlib.suppress(StorageError):
            _again(tmp_path, readonly=True).close()
        assert content == path.read_bytes()
        wal.write_bytes(b"what belongs to it")
        ledger = _again(tmp_path)
        aside = Path(ledger.damaged or "")
        assert content == aside.read_bytes()
        assert not ledger.roots.knows(ROOT)
        ledger.close()
        asides.add(aside)
        ledger = _again(tmp_path)
        assert ledger.damaged is None
        ledger.close()
        path.unlink()
    assert len(asides) == 2
    assert all(aside.exists() for aside in asides)


def test_an_error_of_the_disk_is_no_damage(tmp_path: Path) -> None:
    """What cannot be read is not moved aside: here the name belongs to a folder."""
    (tmp_path / "ledger.sqlite3").mkdir()
    (tmp_path / "ledger.sqlite3" / "x").touch()
    with pytest.raises(StorageError, match="cannot be opened"):
        Ledger(str(tmp_path), "1.0")
    assert (tmp_path / "ledger.sqlite3" / "x").exists()
