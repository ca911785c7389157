"""Pauses, notes and the identity of roots: they hold across a restart until somebody says else."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from lensd.errors import StorageError
from lensd.store.identity import Identity
from lensd.store.ledger import JobState, Ledger, Outcome
from lensd.store.ledger.notes import (
    ArchiveIdentity,
    DegradedRoot,
    PruneInProgress,
    RenamingOriginal,
)

ROOT, WATCH = "/srv/loras", "loras"
ODD = os.fsdecode(b"caf\xe9 [1]%.safetensors")
FIRST = Identity(1, 10, 100, 5_000, 6_000)
OLD = Path(__file__).parent / "ledger_of_schema_1.sql"


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(str(tmp_path), "1.0")


def _order(ledger: Ledger, now: float | None = None) -> list[str]:
    """The names of the queued jobs that would be taken, in order."""
    taken = []
    while (entry := ledger.jobs.next_queued(now)) is not None:
        taken.append(entry.job_id)
        ledger.jobs.update(entry.job_id, state=JobState.RUNNING)
    for name in taken:
        ledger.jobs.update(name, state=JobState.QUEUED)
    return taken


@pytest.mark.parametrize(
    ("paused", "taken"),
    [
        ([], []),
        ([""], []),
        ([ROOT], ["other"]),
        ([f"{ROOT}/sub"], ["top", "near", "odd", "other"]),
        ([f"{ROOT}/su"], ["top", "in", "near", "odd", "other"]),
        ([f"{ROOT}/{ODD}", "/srv/other"], ["top", "in", "near"]),
        (["/"], []),
        ([f"{ROOT}/"], ["other"]),
        ([f"{ROOT}/top.safetensors"], ["in", "near", "odd", "other"]),
    ],
)
def test_what_is_paused_is_not_taken(
    tmp_path: Path, ledger: Ledger, paused: list[str], taken: list[str]
) -> None:
    """A folder's name is no prefix of its neighbours'; names are bytes, no patterns."""
    files = {"top": "top.safetensors", "in": "sub/a.safetensors", "near": "sub2/a.safetensors"}
    for job, path in {**files, "odd": ODD}.items():
        ledger.jobs.enqueue(job, ROOT, WATCH, path, FIRST)
    ledger.jobs.enqueue("other", "/srv/other", "other", "a.safetensors", FIRST)
    ledger.state.pause(paused)
    ledger.close()
    again = Ledger(str(tmp_path), "1.0")
    assert sorted(path.rstrip("/") for path in paused or [""]) == again.state.paused()
    assert taken == _order(again)
    again.state.resume(paused)
    assert [] == again.state.paused()
    assert len(_order(again)) == 5
    again.close()


def test_to_resume_everything_ends_all_pauses(ledger: Ledger) -> None:
    """And to resume one path ends that one only."""
    ledger.state.pause(["/a", "/b"])
    ledger.state.pause(["/a"])
    ledger.state.resume(["/a", "/never"])
    assert ["/b"] == ledger.state.paused()
    ledger.state.resume([])
    assert [] == ledger.state.paused()


def test_a_postponed_job_waits_for_its_time(tmp_path: Path, ledger: Ledger) -> None:
    """It is queued, with what happened, and counts; others go on meanwhile."""
    for name in ("sick", "well"):
        ledger.jobs.enqueue(name, ROOT, WATCH, name, FIRST)
    ledger.jobs.update("sick", state=JobState.RUNNING, temporary=".lensd-sick.tmp", staged=FIRST)
    ledger.jobs.postpone("sick", 1_000.0, "io_error", f"{ODD} cannot be read")
    ledger.jobs.postpone("sick", 2_000.0, "io_error", f"{ODD} cannot be read")
    ledger.close()
    ledger = Ledger(str(tmp_path), "1.0")
    entry = ledger.jobs.get("sick")
    assert (entry.state, entry.retries, entry.not_before) == ("queued", 2, 2_000.0)
    assert (entry.reason, entry.temporary, entry.staged) == ("io_error", None, None)
    assert ["well"] == _order(ledger, 1_999.0)
    assert ["sick", "well"] == _order(ledger, 2_000.0)
    ledger.close()


# Each note with a value, and the text that the ledger has for it.
NOTES: dict[str, tuple[Any, str]] = {
    "disk_backoff": ("/archive: the disk is full", "/archive: the disk is full"),
    "degraded": (
        (DegradedRoot("loras", f"/srv/{ODD}", "gone", "not there", 1.5),),
        (
            '[{"watch": "loras", "path": "/srv/caf\\udce9 [1]%.safetensors", "reason": "gone", '
            '"message": "not there", "since": 1.5}]'
        ),
    ),
    "archive": (ArchiveIdentity("/archive", 1, 2, None), '["/archive", 1, 2, null]'),
    "renaming_original": (RenamingOriginal("/a", os.fsdecode(b"\xe9")), '["2f61", "e9"]'),
    "prune_in_progress": (PruneInProgress("job", (ODD,)),
                          '["job", ["caf\\udce9 [1]%.safetensors"]]'),
    "last_prune": (1764082800.125, "1764082800.125"),
}  # fmt: skip
KEYS = {
    "disk_backoff": "held",
    "degraded": "degraded",
    "archive": "archive",
    "renaming_original": "archive.renaming",
    "prune_in_progress": "pruning",
    "last_prune": "pruned_at",
}


@pytest.mark.parametrize("name", NOTES)
def test_a_note_is_kept_across_a_restart(tmp_path: Path, ledger: Ledger, name: str) -> None:
    """As the same text under the same key as in earlier versions of lensd; `clear` removes it."""
    value, stored = NOTES[name]
    assert getattr(ledger.state, name).get() is None
    getattr(ledger.state, name).set(value)
    ledger.close()
    again = Ledger(str(tmp_path), "1.0")
    assert value == getattr(again.state, name).get()
    rows = again._database.read("SELECT key, value FROM meta")
    assert [(KEYS[name], stored)] == [tuple(row) for row in rows]
    getattr(again.state, name).clear()
    assert getattr(again.state, name).get() is None
    again.close()


@pytest.mark.parametrize("name", sorted(NOTES.keys() - {"disk_backoff"}))
@pytest.mark.parametrize(
    "damaged", [b"", b"{", b"null", b'["x", 1]', b"[[[]]]", b"\xff", b"[" * 100_000]
)
def test_a_damaged_note_reads_as_none(ledger: Ledger, name: str, damaged: bytes) -> None:
    """It is no reason to stop: lensd goes on as if the note had never been set."""
    with ledger._database.change() as db:
        query = "INSERT INTO meta VALUES (?, CAST(? AS TEXT))"
        db.execute(query, (KEYS[name], damaged))
    assert getattr(ledger.state, name).get() is None
    ledger.close()


def test_what_a_root_is(tmp_path: Path, ledger: Ledger) -> None:
    """Unknown until it is told; a root that was never seen has none."""
    ledger.roots.add(ROOT, WATCH)
    assert ledger.roots.get_identity(ROOT) is None
    ledger.roots.set_identity(ROOT, 1, 2, None)
    assert ledger.roots.get_identity(ROOT) == (1, 2, None)
    ledger.roots.set_identity(ROOT, 3, 4, "/dev/sda1 ext4")
    ledger.roots.set_identity("/never", 1, 2, None)
    ledger.close()
    again = Ledger(str(tmp_path), "1.0")
    assert again.roots.get_identity(ROOT) == (3, 4, "/dev/sda1 ext4")
    assert again.roots.get_identity("/never") is None
    again.roots.add(ROOT, WATCH)
    assert again.roots.get_identity(ROOT) == (3, 4, "/dev/sda1 ext4")
    again.close()


def test_originals_are_pruned_by_the_time_of_publishing(ledger: Ledger) -> None:
    """Later changes of a row make it no younger; all rows of one archived file lose it together."""
    for job, archived in (("one", "/a/x"), ("redone", "/a/x"), ("kept", None)):
        ledger.jobs.enqueue(job, ROOT, WATCH, job, FIRST)
        ledger.jobs.update(
            job,
            state=JobState.PUBLISHED,
            outcome=Outcome.COMPRESSED,
            sha256_in="abc",
            archive_path=archived,
        )
        ledger.jobs.finish(job, Outcome.COMPRESSED)
    published = ledger.jobs.get("redone").published
    assert published is not None
    ledger.jobs.update("redone", emitted=1)
    assert ledger.jobs.get("redone").published == published
    assert [] == list(ledger.originals.published_before(ledger.jobs.get("one").published or 0))
    assert ["one", "redone"] == [e.job_id for e in ledger.originals.published_before(published + 1)]
    ledger.originals.record_pruned("one")
    assert [] == list(ledger.originals.published_before(published + 1))
    assert ledger.files.totals().held_by_archive == 0
    ledger.originals.record_pruned("kept")


def test_a_ledger_of_schema_1_is_converted(tmp_path: Path) -> None:
    """Nothing in it is lost; readers say who converts it; the second start has nothing to do."""
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
    """It is one transaction: here a table of the new schema is there already."""
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
