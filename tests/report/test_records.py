"""Reports are the same from records in memory and on the disk, and from a log and a manifest."""

from __future__ import annotations

import datetime as dt
import io
import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensd.collection import parquet
from lensd.errors import UsageError
from lensd.report import from_logs, from_manifest, sheet
from lensd.report.documents import FromManifest
from lensd.report.history import History
from lensd.report.json_text import json_parts, to_json
from lensd.report.period import Period
from lensd.report.record import Measures, Record
from lensd.report.records import InMemory, OnDisk, Records
from lensd.report.summary import summarize
from tests.report.test_summary import DAY, NOW, records
from tests.support import many_files

ALL = Period()
ROWS = 4_000
LINES = [
    {name: value for name, value in line.items() if name not in many_files.DAEMON_ONLY}
    | {"outcome": line["event"].removeprefix("file.")}
    | {"settings": "{}", "destination": "/small", "source_size": 1}
    for line in many_files.lines(60, seed=3, troubles=0.4)
]


def report(found: Records, period: Period = ALL) -> dict[str, Any]:
    """The report and the rows of the sheet."""
    history = History(source=FromManifest(manifest="m"), records=found)
    document = summarize(history, period, NOW, "x")
    text = "".join(json_parts(document))
    assert text == to_json(document, indent=2)
    table = io.StringIO()
    sheet.write(found.select(period), table, dt.UTC)
    return {**json.loads(text), "sheet": table.getvalue()}


@given(st.lists(records, max_size=9), st.floats(0, 30 * DAY), st.floats(0, 30 * DAY))
def test_records_on_the_disk_give_the_same_report(
    found: list[Record], since: float, until: float
) -> None:
    """For all of the time, and for a period."""
    for number, record in enumerate(found):
        record.path, record.watch = f"/l/{number}", ""
    for period in (ALL, Period(since), Period(None, until), Period(since, until)):
        expected = report(InMemory(found), period)
        assert report(OnDisk(found, Measures), period) == expected


def test_the_last_record_of_a_path_counts() -> None:
    """A journal has several rows of an object that was tried again."""
    first, other, last = (
        Record(path=p, watch="", job_id=None, outcome=o, when=w, measures=Measures())
        for p, o, w in (("/a", "failed", 1.0), ("/b", "kept", 2.0), ("/a", "compressed", 3.0))
    )
    found = OnDisk([first, other, last], Measures)
    assert list(found.select(ALL)) == [other, last]
    assert list(found.select(ALL, ("kept",), newest_first=True)) == [other]


@pytest.mark.parametrize("kind", ["m.jsonl", "m.jsonl.journal", "m.parquet"])
def test_a_manifest_gives_the_report_of_a_log(tmp_path: Path, kind: str) -> None:
    """With the same lines in another order, in each form of a manifest."""
    path, log = tmp_path / kind, tmp_path / "log"
    rows = sorted(LINES, key=lambda line: str(line["path"]))
    if path.suffix == ".parquet":
        parquet.write(str(path), rows)
    else:
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    log.write_text("".join(f"{json.dumps(line)}\n" for line in LINES))
    found = from_manifest.history(str(path).removesuffix(".journal"))
    assert report(found.records) == report(from_logs.history([str(log)]).records)


def test_a_manifest_without_text_in_unicode(tmp_path: Path) -> None:
    """It is refused as any other file that lensd did not write."""
    path = tmp_path / "m.jsonl"
    path.write_text(json.dumps({**LINES[0], "path": "\ud800"}) + "\n")
    with pytest.raises(UsageError, match="is no manifest"):
        from_manifest.history(str(path))


@pytest.mark.slow
def test_a_report_needs_little_memory_for_a_row() -> None:
    """Less than 100 bytes, with the JSON and the CSV; a record takes more than 1,000."""
    some = msgspec.convert(
        next(line for line in LINES if line["outcome"] == "compressed"), Measures
    )

    def make() -> Iterator[Record]:
        for number in range(ROWS):
            yield Record(
                path=f"/source/{number}",
                watch="",
                job_id=None,
                outcome=("compressed", "kept", "failed")[number % 3],
                when=float(number),
                measures=some,
                message="x" * 100,
            )

    tracemalloc.start()
    try:
        found = OnDisk(make(), Measures)
        document = summarize(
            History(source=FromManifest(manifest="m"), records=found), ALL, NOW, "x"
        )
        with Path("/dev/null").open("w") as table:
            table.writelines(json_parts(document))
            sheet.write(found.select(ALL), table, dt.UTC)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 100 * ROWS
