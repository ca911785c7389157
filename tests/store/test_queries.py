"""Every statement of the ledger finds its rows by an index, however many there are."""

from __future__ import annotations

import inspect
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from lensd.store.database import LEDGER
from lensd.store.identity import Identity
from lensd.store.ledger import Ledger

ROOT, WATCH = "/srv/loras", "loras"
FIRST = Identity(1, 10, 100, 5_000, 6_000)

# What is asked in the tests below. Not a word about rows: what opens, closes, and bundles.
CALLS: dict[str, Callable[[Ledger], Any]] = {
    "archived_at": lambda ledger: ledger.archived_at("/archive/4"),
    "archived_last": lambda ledger: ledger.archived_last(8),
    "baseline": lambda ledger: ledger.baseline(ROOT, WATCH),
    "came_back": lambda ledger: ledger.came_back("job5", FIRST, "/archive/5", gone=True),
    "clear_waiting": lambda ledger: ledger.clear_waiting(),
    "count_unfinished": lambda ledger: ledger.count_unfinished(),
    "current": lambda ledger: ledger.current(ROOT, "4"),
    "enqueue": lambda ledger: ledger.enqueue("queued", ROOT, WATCH, "queued", FIRST),
    "find": lambda ledger: ledger.find(ROOT, "4"),
    "finish": lambda ledger: ledger.finish("job4", "compressed"),
    "get": lambda ledger: ledger.get("job4"),
    "get_meta": lambda ledger: ledger.get_meta("note"),
    "history": lambda ledger: ledger.history(ROOT, "4"),
    "is_empty": lambda ledger: ledger.is_empty(),
    "knows": lambda ledger: ledger.knows(ROOT, "4", FIRST),
    "knows_root": lambda ledger: ledger.knows_root(ROOT),
    "leave": lambda ledger: ledger.leave(ROOT, WATCH, [("left", FIRST)]),
    "move": lambda ledger: ledger.move(ledger.get("job6"), ROOT, WATCH, "7"),
    "newest": lambda ledger: ledger.newest(ROOT, 32),
    "next_due": lambda ledger: ledger.next_due(),
    "next_queued": lambda ledger: ledger.next_queued(without=["/srv/away"]),
    "of_original": lambda ledger: ledger.of_original("in8"),
    "older_than": lambda ledger: list(ledger.older_than(1e9)),
    "original_moved": lambda ledger: ledger.original_moved("/archive/8", "/archive/x", "in8"),
    "output": lambda ledger: ledger.output(ROOT, "4", FIRST),
    "pause": lambda ledger: ledger.pause([f"{ROOT}/4"]),
    "paused": lambda ledger: ledger.paused(),
    "postpone": lambda ledger: ledger.postpone("queued", 9e9, "io_error", "later"),
    "pruned": lambda ledger: ledger.pruned("job9"),
    "quarantined_before": lambda ledger: ledger.quarantined_before("2.0"),
    "record": lambda ledger: ledger.record("record", ROOT, WATCH, "record", FIRST),
    "redo": lambda ledger: ledger.redo("redo", ledger.get("job4")),
    "release": lambda ledger: ledger.release([ledger.get("job3")]),
    "replace_older": lambda ledger: ledger.replace_older(ROOT, "4", "job4"),
    "resume": lambda ledger: ledger.resume([f"{ROOT}/4"]),
    "root_identity": lambda ledger: ledger.root_identity(ROOT),
    "same_file": lambda ledger: ledger.same_file(FIRST),
    "set_meta": lambda ledger: ledger.set_meta("note", "text"),
    "set_root_identity": lambda ledger: ledger.set_root_identity(ROOT, 1, 2, None),
    "set_waiting": lambda ledger: ledger.set_waiting(ROOT, "4", WATCH, "it is being written"),
    "times_published": lambda ledger: ledger.times_published(ROOT, "4", "in4"),
    "totals": lambda ledger: ledger.totals(),
    "under_way": lambda ledger: ledger.under_way(),
    "unemitted": lambda ledger: ledger.unemitted(),
    "unfinished": lambda ledger: list(ledger.unfinished()),
    "unknown": lambda ledger: ledger.unknown(ROOT, [("4", FIRST), ("5", FIRST)]),
    "update": lambda ledger: ledger.update("job4", state="published"),
    "waiting": lambda ledger: ledger.waiting(),
    "with_outcome": lambda ledger: list(ledger.with_outcome("compressed", "failed")),
}
NO_ROWS = {"close", "together"}
# Indexes of the unfinished jobs only, and those of which one value may stand for nearly all rows.
SMALL = ("files_open", "files_queued")
WIDE = ("files_by_root", "files_by_outcome", "files_by_age")
# Totals need all of an index, which is small beside the table; of quarantined files there are few.
EXCEPTIONS = {
    ("totals", "SCAN files USING COVERING INDEX files_ended"),
    ("totals", "SEARCH files USING COVERING INDEX files_ended (outcome=?)"),
    ("totals", "SEARCH files USING COVERING INDEX files_by_archive (archive_path>?)"),
    ("quarantined_before", "SEARCH files USING INDEX files_by_outcome (outcome=?)"),
}


class _Recording(sqlite3.Connection):
    """Remembers each statement as it was written, with its values."""

    said: list[tuple[str, Any]]

    def execute(self, sql: str, values: Any = (), /) -> sqlite3.Cursor:
        self.said.append((sql, values))
        return super().execute(sql, values)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """Published files of several times a page of rows."""
    ledger = Ledger(str(tmp_path), "1.0")
    ledger.baseline(ROOT, WATCH)
    with ledger.together():
        for number in range(1200):
            _published(ledger, number)
    yield ledger
    ledger.close()


def _published(ledger: Ledger, number: int) -> None:
    identity = FIRST._replace(inode=1000 + number)
    ledger.record(
        f"job{number}", ROOT, WATCH, str(number), identity,
        outcome="compressed", staged=identity._replace(inode=9000 + number), emitted=1,
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
    """As SQLite itself plans each one that the ledger has."""
    methods = {
        name
        for name, _ in inspect.getmembers(Ledger, inspect.isfunction)
        if not name.startswith("_")
    }
    assert set(CALLS) == methods - NO_ROWS
    ledger._db.close()
    ledger._db = sqlite3.connect(tmp_path / LEDGER, factory=_Recording)
    ledger._db.row_factory = sqlite3.Row
    found = set()
    for name, call in CALLS.items():
        ledger._db.said = []
        call(ledger)
        with closing(sqlite3.connect(tmp_path / LEDGER)) as db:
            for sql, values in ledger._db.said:
                steps = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {sql}", values)]
                found |= {(name, step) for step in _reads_most(sql, steps)}
    assert set() == found - EXCEPTIONS


def test_pages_make_one_list(ledger: Ledger) -> None:
    """What comes page by page is complete and in order, also of several outcomes."""
    for number in range(0, 1200, 3):
        ledger.finish(f"job{number}", "failed")
    numbers = [entry.number for entry in ledger.with_outcome("compressed", "failed")]
    assert numbers == sorted(set(numbers))
    assert len(numbers) == 1200
    published = [entry.published for entry in ledger.older_than(1900.0)]
    assert published == [1000.0 + n for n in range(900) if n % 3]


def test_rows_may_change_while_pages_are_read(ledger: Ledger) -> None:
    """Each is given once, though the first pages have changed by then."""
    seen = []
    for entry in ledger.with_outcome("compressed"):
        seen.append(entry.job_id)
        ledger.update(entry.job_id, outcome="superseded")
    assert seen == [f"job{number}" for number in range(1200)]
    assert [] == list(ledger.with_outcome("compressed"))


class _Stopped(Exception):
    pass


def _change_and_stop(ledger: Ledger) -> None:
    with ledger.together():
        ledger.enqueue("one", ROOT, WATCH, "one", FIRST)
        ledger.finish("job0", "failed")
        raise _Stopped


def test_together_is_all_or_nothing(ledger: Ledger) -> None:
    """An exception takes back what was written within, and nothing before it."""
    with pytest.raises(_Stopped):
        _change_and_stop(ledger)
    assert ledger.find(ROOT, "one") is None
    assert ledger.get("job0").outcome == "compressed"
    with ledger.together():
        ledger.enqueue("one", ROOT, WATCH, "one", FIRST)
        ledger.enqueue("two", ROOT, WATCH, "two", FIRST)
    assert ledger.count_unfinished() == 2


def test_many_files_are_known_as_one_is(ledger: Ledger) -> None:
    """`unknown` is `knows` for many: other versions, superseded rows, jobs just exchanged."""
    output = FIRST._replace(inode=9000)
    original = FIRST._replace(inode=1000)
    ledger.release([ledger.get("job1")])
    ledger.update("job2", state="published")
    asked = [
        ("0", output),
        ("0", original._replace(ctime_ns=1)),
        ("0", output._replace(size=1)),
        ("1", output._replace(inode=9001)),
        ("2", output._replace(inode=9002)),
        ("2", original._replace(inode=1002)),
        ("no row", output),
    ]
    one_by_one = [file for file in asked if ledger.knows(ROOT, *file) is None]
    assert one_by_one == ledger.unknown(ROOT, asked)
    assert one_by_one == [asked[1], asked[2], asked[3], asked[6]]
    assert [] == ledger.unknown(ROOT, [])
