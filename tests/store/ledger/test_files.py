"""The ledger knows a file by its path and its content."""

from __future__ import annotations

import pytest

from lensd.store.ledger import Columns, JobState, Ledger, Outcome
from tests.store.ledger.conftest import FIRST, ROOT, WATCH


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


def test_original_and_output_are_known_under_their_path(ledger: Ledger) -> None:
    """Both are known during the job, and only the output after it."""
    output = FIRST._replace(inode=20, size=30, ctime_ns=9)
    ledger.jobs.enqueue("job", ROOT, WATCH, "a", FIRST)
    ledger.jobs.update("job", state=JobState.PUBLISHING, staged=output)
    assert ledger.files.knows(ROOT, "a", FIRST)
    assert ledger.files.knows(ROOT, "a", output)
    ledger.jobs.finish("job", Outcome.COMPRESSED)
    assert ledger.files.knows(ROOT, "a", FIRST) is None
    assert ledger.files.knows(ROOT, "a", output)


def test_totals_count_each_archived_original_once(ledger: Ledger) -> None:
    """Bytes saved in the folders, bytes of originals in the archive, and the difference."""
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


@pytest.mark.parametrize(
    ("column", "value"), [("state", "polishing"), ("outcome", "polished"), ("state", b"\xff")]
)
def test_a_value_of_a_later_lensd_is_left_alone(ledger: Ledger, column: str, value: object) -> None:
    """The file is known and no job; other rows are read as before."""
    for name in ("a", "b"):
        ledger.files.record(name, ROOT, WATCH, name, FIRST, outcome=Outcome.KEPT)
    with ledger._database.change() as db:
        db.execute(f"UPDATE files SET {column} = ? WHERE path = x'61'", (value,))  # noqa: S608
    entry = ledger.files.knows(ROOT, "a", FIRST)
    assert entry is not None
    assert (entry.state, entry.outcome) == (JobState.DONE, Outcome.SKIPPED)
    assert [] == ledger.files.unknown(ROOT, [("a", FIRST), ("b", FIRST)])
    assert "b" in [e.job_id for e in ledger.files.newest(ROOT, 5)]
    assert ledger.jobs.next_queued() is None
    assert [] == [*ledger.jobs.unfinished(), *ledger.jobs.under_way()]
