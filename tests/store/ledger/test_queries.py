"""Every statement of the ledger finds its rows by an index, however many there are."""

from __future__ import annotations

import inspect
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest

from lensd.store.ledger import JobState, Ledger, Outcome
from lensd.store.ledger.database import LEDGER
from tests.store.ledger.conftest import FIRST, ROOT, WATCH

# One call of each method of the ledger's parts.
CALLS: dict[str, Callable[[Ledger], Any]] = {
    "originals.at": lambda ledger: ledger.originals.at("/archive/4"),
    "originals.is_empty": lambda ledger: ledger.originals.is_empty(),
    "originals.newest": lambda ledger: ledger.originals.newest(8),
    "roots.add": lambda ledger: ledger.roots.add(ROOT, WATCH),
    "originals.record_incoming": lambda ledger: ledger.originals.record_incoming("job5", FIRST),
    "originals.record_restored": lambda ledger: ledger.originals.record_restored(
        "job5", FIRST, "/archive/5", gone=True
    ),
    "state.clear_waiting": lambda ledger: ledger.state.clear_waiting(),
    "jobs.count_unfinished": lambda ledger: ledger.jobs.count_unfinished(),
    "files.current": lambda ledger: ledger.files.current(ROOT, "4"),
    "jobs.enqueue": lambda ledger: ledger.jobs.enqueue("queued", ROOT, WATCH, "queued", FIRST),
    "files.find": lambda ledger: ledger.files.find(ROOT, "4"),
    "jobs.finish": lambda ledger: ledger.jobs.finish("job4", Outcome.COMPRESSED),
    "jobs.get": lambda ledger: ledger.jobs.get("job4"),
    "files.history": lambda ledger: ledger.files.history(ROOT, "4"),
    "roots.is_empty": lambda ledger: ledger.roots.is_empty(),
    "files.knows": lambda ledger: ledger.files.knows(ROOT, "4", FIRST),
    "roots.knows": lambda ledger: ledger.roots.knows(ROOT),
    "files.by_job": lambda ledger: ledger.files.by_job("job4"),
    "jobs.queued": lambda ledger: ledger.jobs.queued(20),
    "files.record_baseline": lambda ledger: ledger.files.record_baseline(
        ROOT, WATCH, [("left", FIRST)]
    ),
    "files.move": lambda ledger: ledger.files.move(ledger.jobs.get("job6"), ROOT, WATCH, "7"),
    "files.latest_with_outcome": lambda ledger: ledger.files.latest_with_outcome(
        Outcome.FAILED, Outcome.QUARANTINED
    ),
    "files.newest": lambda ledger: ledger.files.newest(ROOT, 32),
    "state.last_prune.clear": lambda ledger: ledger.state.last_prune.clear(),
    "state.last_prune.get": lambda ledger: ledger.state.last_prune.get(),
    "state.last_prune.set": lambda ledger: ledger.state.last_prune.set(1.0),
    "jobs.next_due": lambda ledger: ledger.jobs.next_due(),
    "jobs.next_queued": lambda ledger: [
        ledger.jobs.next_queued(without=["/srv/away"]),
        ledger.jobs.next_queued(root=ROOT),
        ledger.jobs.next_queued(root=ROOT, smallest=True),
    ],
    "files.displaced": lambda ledger: ledger.files.displaced(),
    "files.outdated": lambda ledger: ledger.files.outdated(),
    "originals.find": lambda ledger: ledger.originals.find("in8"),
    "originals.published_before": lambda ledger: list(ledger.originals.published_before(1e9)),
    "originals.record_moved": lambda ledger: ledger.originals.record_moved(
        "/archive/8", "/archive/x", "in8"
    ),
    "originals.rows_of": lambda ledger: ledger.originals.rows_of("in4"),
    "files.output": lambda ledger: ledger.files.output(ROOT, "4", FIRST),
    "state.pause": lambda ledger: ledger.state.pause([f"{ROOT}/4"]),
    "state.paused": lambda ledger: ledger.state.paused(),
    "jobs.postpone": lambda ledger: ledger.jobs.postpone("queued", 9e9, "io_error", "later"),
    "originals.record_pruned": lambda ledger: ledger.originals.record_pruned("job9"),
    "jobs.quarantined_before": lambda ledger: ledger.jobs.quarantined_before("2.0"),
    "files.record": lambda ledger: ledger.files.record("record", ROOT, WATCH, "record", FIRST),
    "files.published_after": lambda ledger: ledger.files.published_after(1e9),
    "files.record_all": lambda ledger: ledger.files.record_all(
        ROOT, WATCH, [("all", FIRST, {"outcome": Outcome.COMPRESSED})]
    ),
    "jobs.redo": lambda ledger: ledger.jobs.redo("redo", ledger.jobs.get("job4")),
    "jobs.release": lambda ledger: ledger.jobs.release([ledger.jobs.get("job3")]),
    "files.replace_older": lambda ledger: ledger.files.replace_older(ROOT, "4", "job4"),
    "state.resume": lambda ledger: ledger.state.resume([f"{ROOT}/4"]),
    "gone.change": lambda ledger: ledger.gone.change([("job4", "file")], [("job5", "file")]),
    "gone.exists": lambda ledger: ledger.gone.exists(),
    "gone.known": lambda ledger: ledger.gone.known(),
    "gone.places": lambda ledger: list(ledger.gone.places(Outcome.COMPRESSED)),
    "roots.get_identity": lambda ledger: ledger.roots.get_identity(ROOT),
    "files.same_file": lambda ledger: ledger.files.same_file(FIRST),
    "roots.set_identity": lambda ledger: ledger.roots.set_identity(ROOT, 1, 2, None),
    "state.set_waiting": lambda ledger: ledger.state.set_waiting(
        ROOT, "4", WATCH, "it is being written"
    ),
    "originals.count_published": lambda ledger: ledger.originals.count_published(ROOT, "4", "in4"),
    "files.totals": lambda ledger: ledger.files.totals(),
    "jobs.under_way": lambda ledger: ledger.jobs.under_way(),
    "jobs.unemitted": lambda ledger: ledger.jobs.unemitted(),
    "jobs.unfinished": lambda ledger: list(ledger.jobs.unfinished()),
    "files.unknown": lambda ledger: ledger.files.unknown(ROOT, [("4", FIRST), ("5", FIRST)]),
    "jobs.update": lambda ledger: ledger.jobs.update("job4", state=JobState.PUBLISHED),
    "state.waiting": lambda ledger: ledger.state.waiting(),
    "files.withdraw": lambda ledger: ledger.files.withdraw("job7"),
    "files.with_outcome": lambda ledger: list(
        ledger.files.with_outcome(Outcome.COMPRESSED, Outcome.FAILED)
    ),
}
PARTS = ("jobs", "files", "gone", "originals", "roots", "state", "state.last_prune")
# Indexes of unfinished jobs only; indexes of which one value may match nearly all rows.
SMALL = ("files_open", "files_queued", "files_queued_by_root")
WIDE = ("files_by_root", "files_by_outcome", "files_by_age")
# Totals need all of an index, which is smaller than the table. There are few quarantined files, and
# `status` reads all rows of an outcome only where it lists them all.
EXCEPTIONS = {
    ("files.totals", "SCAN files USING COVERING INDEX files_ended"),
    ("files.totals", "SEARCH files USING COVERING INDEX files_ended (outcome=?)"),
    ("files.totals", "SEARCH files USING COVERING INDEX files_by_archive (archive_path>?)"),
    ("files.latest_with_outcome", "SEARCH files USING INDEX files_by_outcome (outcome=?)"),
    ("jobs.quarantined_before", "SEARCH files USING INDEX files_by_outcome (outcome=?)"),
}


class _Recording(sqlite3.Connection):
    """Records each statement with its values."""

    statements: list[tuple[str, Any]]

    def execute(self, sql: str, values: Any = (), /) -> sqlite3.Cursor:
        self.statements.append((sql, values))
        return super().execute(sql, values)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """A ledger with published files for several pages of rows."""
    ledger = Ledger(str(tmp_path), "1.0")
    ledger.roots.add(ROOT, WATCH)
    with ledger.together():
        for number in range(1200):
            _published(ledger, number)
    yield ledger
    ledger.close()


def _published(ledger: Ledger, number: int) -> None:
    identity = FIRST._replace(inode=1000 + number)
    ledger.files.record(
        f"job{number}", ROOT, WATCH, str(number), identity,
        outcome=Outcome.COMPRESSED, staged=identity._replace(inode=9000 + number), emitted=1,
        sha256_in=f"in{number}", sha256_out=f"out{number}", bytes_in=100, bytes_out=10,
        archive_path=f"/archive/{number}", archive_method="link", published=1000.0 + number,
    )  # fmt: skip


def _reads_most(sql: str, steps: Sequence[str]) -> Iterator[str]:
    """Steps of a plan that read most rows of the large table: without an index, or a wide one."""
    is_limited = "LIMIT" in sql and not any("TEMP B-TREE" in step for step in steps)
    for step in steps:
        index = step.partition("INDEX ")[2].partition(" ")[0]
        is_wide = index in WIDE or (index == "files_by_archive" and ">" in step)
        unindexed = step.startswith("SCAN files") and index not in SMALL
        if unindexed or (step.startswith("SEARCH files") and is_wide and not is_limited):
            yield step


def test_no_statement_reads_the_whole_table(ledger: Ledger, tmp_path: Path) -> None:
    """SQLite's own plan shows it for each statement of the ledger."""
    methods = {
        f"{part}.{name}"
        for part in PARTS
        for name, _ in inspect.getmembers(attrgetter(part)(ledger), inspect.ismethod)
        if not name.startswith("_")
    }
    assert set(CALLS) == methods
    ledger.close()
    recording = sqlite3.connect(tmp_path / LEDGER, factory=_Recording)
    recording.row_factory = sqlite3.Row
    ledger._database.connection = recording
    found = set()
    for name, call in CALLS.items():
        recording.statements = []
        call(ledger)
        with closing(sqlite3.connect(tmp_path / LEDGER)) as db:
            for sql, values in recording.statements:
                steps = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {sql}", values)]
                found |= {(name, step) for step in _reads_most(sql, steps)}
    assert set() == found - EXCEPTIONS


def test_pages_make_one_list(ledger: Ledger) -> None:
    """Rows that are read in pages are complete and in order, also with several outcomes."""
    for number in range(0, 1200, 3):
        ledger.jobs.finish(f"job{number}", Outcome.FAILED)
    numbers = [
        entry.number for entry in ledger.files.with_outcome(Outcome.COMPRESSED, Outcome.FAILED)
    ]
    assert numbers == sorted(set(numbers))
    assert len(numbers) == 1200
    published = [entry.published for entry in ledger.originals.published_before(1900.0)]
    assert published == [1000.0 + n for n in range(900) if n % 3]


def test_places_leave_damaged_rows_out(ledger: Ledger) -> None:
    """All other rows have the columns that `with_outcome` reads."""
    with ledger._database.change() as db:
        db.execute("UPDATE files SET path = '../4' WHERE job_id = 'job4'")
        db.execute("UPDATE files SET path = 5 WHERE job_id = 'job5'")
    entries = [e for e in ledger.files.with_outcome(Outcome.COMPRESSED) if e.path != "5"]
    assert [tuple(place) for place in ledger.gone.places(Outcome.COMPRESSED)] == [
        (e.job_id, e.root, e.path, e.archive_path, e.sha256_in, e.outcome) for e in entries
    ]
    assert len(entries) == 1198


def test_rows_may_change_while_pages_are_read(ledger: Ledger) -> None:
    """Each row is given once, although earlier pages have changed."""
    seen = []
    for entry in ledger.files.with_outcome(Outcome.COMPRESSED):
        seen.append(entry.job_id)
        ledger.jobs.update(entry.job_id, outcome=Outcome.SUPERSEDED)
    assert seen == [f"job{number}" for number in range(1200)]
    assert [] == list(ledger.files.with_outcome(Outcome.COMPRESSED))


class _Stopped(Exception):
    pass


def _change_and_stop(ledger: Ledger) -> None:
    with ledger.together():
        ledger.jobs.enqueue("one", ROOT, WATCH, "one", FIRST)
        ledger.jobs.finish("job0", Outcome.FAILED)
        raise _Stopped


def test_together_is_all_or_nothing(ledger: Ledger) -> None:
    """An exception undoes the changes within the block, and no earlier ones."""
    with pytest.raises(_Stopped):
        _change_and_stop(ledger)
    assert ledger.files.find(ROOT, "one") is None
    assert ledger.jobs.get("job0").outcome == Outcome.COMPRESSED
    with ledger.together():
        ledger.jobs.enqueue("one", ROOT, WATCH, "one", FIRST)
        ledger.jobs.enqueue("two", ROOT, WATCH, "two", FIRST)
    assert ledger.jobs.count_unfinished() == 2


def test_many_files_are_known_as_single_files_are(ledger: Ledger) -> None:
    """`unknown` agrees with `knows`: on other versions, superseded rows, jobs just published."""
    output = FIRST._replace(inode=9000)
    original = FIRST._replace(inode=1000)
    ledger.jobs.release([ledger.jobs.get("job1")])
    ledger.jobs.update("job2", state=JobState.PUBLISHED)
    asked = [
        ("0", output),
        ("0", original._replace(ctime_ns=1)),
        ("0", output._replace(size=1)),
        ("1", output._replace(inode=9001)),
        ("2", output._replace(inode=9002)),
        ("2", original._replace(inode=1002)),
        ("no row", output),
    ]
    one_by_one = [file for file in asked if ledger.files.knows(ROOT, *file) is None]
    assert one_by_one == ledger.files.unknown(ROOT, asked)
    assert one_by_one == [asked[1], asked[2], asked[3], asked[6]]
    assert [] == ledger.files.unknown(ROOT, [])
