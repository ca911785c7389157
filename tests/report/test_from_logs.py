"""Reports from real logs: rotated, gzipped, with lines of other programs, repeated."""

from __future__ import annotations

import datetime as dt
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensd.errors import StorageError
from lensd.report import from_logs, sheet
from lensd.report.documents import FromLogs
from lensd.report.history import History
from lensd.report.json_text import to_json
from lensd.report.page import render
from lensd.report.period import Period
from lensd.report.record import Drawn, Record
from lensd.report.summary import summarize
from tests.support import many_files
from tests.support.outputs import validator

Line = dict[str, Any]
NOW = dt.datetime(2026, 12, 1, tzinfo=dt.UTC)
VALIDATOR = validator("report")
LINES = list(many_files.lines(12, seed=2, troubles=0.0))


def text(*lines: Line) -> str:
    return "".join(f"{json.dumps(line)}\n" for line in lines)


def records(tmp_path: Path, *lines: Line) -> list[Record]:
    log = tmp_path / "log"
    log.write_text(text(*lines))
    return all_of(from_logs.history([str(log)]))


def all_of(history: History) -> list[Record]:
    return list(history.records.select(Period()))


def of_logs(history: History) -> FromLogs:
    """The source of a history from logs."""
    assert isinstance(history.source, FromLogs)
    return history.source


def later(line: Line, event: str, seconds: float = 60, **changes: Any) -> Line:
    when = dt.datetime.fromisoformat(line["timestamp"]) + dt.timedelta(seconds=seconds)
    stamp = f"{when:%Y-%m-%dT%H:%M:%S.%f}Z"
    return {**line, "timestamp": stamp, "event": event, **changes}


def test_records_have_the_numbers_of_their_lines(tmp_path: Path) -> None:
    """Including the numbers for charts."""
    log = tmp_path / "log"
    log.write_text(text(*LINES))
    history = from_logs.history([str(log)], drawn=True)
    assert of_logs(history).lines == len(LINES)
    for line, record in zip(LINES, all_of(history), strict=True):
        assert (record.path, record.job_id) == (line["path"], line["job_id"])
        assert record.saved == line["bytes_in"] - line["bytes_out"]
        assert record.measures.delta_error == line["delta_error"]
        assert isinstance(record.measures, Drawn)
        assert record.measures.spectrum is not None
        assert record.measures.spectrum.energy == line["spectrum"]["energy"]


def test_rotated_and_gzipped_files_in_any_order(tmp_path: Path) -> None:
    """A gzipped file may have any name; lines that two files contain count once."""
    (tmp_path / "lensd.log").write_text(text(*LINES[8:]))
    (tmp_path / "lensd.log.1").write_text(text(*LINES[4:9]))
    (tmp_path / "lensd.log.2").write_bytes(gzip.compress(text(*LINES[:4]).encode()))
    history = from_logs.history([str(tmp_path / n) for n in ("lensd.log", "lensd.log.2")])
    assert len(all_of(history)) == 8
    history = from_logs.history([str(path) for path in sorted(tmp_path.iterdir())])
    assert [line["path"] for line in LINES] == [r.path for r in all_of(history)]
    assert of_logs(history).repeated == 1


def test_a_truncated_gzip_is_read_in_part(tmp_path: Path) -> None:
    """The report names it."""
    whole = gzip.compress(text(*LINES).encode(), compresslevel=0)
    (tmp_path / "log.gz").write_bytes(whole[: len(whole) // 2])
    history = from_logs.history([str(tmp_path / "log.gz")])
    assert 0 < len(all_of(history)) < len(LINES)
    assert len(of_logs(history).unreadable) == 1


def test_lines_with_a_prefix_and_foreign_lines(tmp_path: Path) -> None:
    """A prefix by journalctl, other programs' lines, a truncated line, bytes that are not UTF-8."""
    prefix = "Nov 24 13:22:26 server lensd[812]: "
    first, second, third = (text(line) for line in LINES[:3])
    stray = third.replace("/srv", "\udcff/srv")
    log = tmp_path / "log"
    content = (
        "-- Boot 4f1c --\n"
        f"{prefix}{first}"
        f"{prefix}Traceback (most recent call last):\n\n"
        f"{prefix}{second[:600]}\n"
        f"{stray}"
        '{"level": "info", "msg": "of another program"}\n'
    )
    log.write_bytes(content.encode("utf-8", "surrogateescape"))
    history = from_logs.history([str(log)])
    assert [LINES[0]["path"]] == [r.path for r in all_of(history)]
    source = of_logs(history)
    assert (source.lines, source.foreign, source.cut) == (6, 3, 2)


@given(st.lists(st.one_of(st.binary(max_size=80), st.sampled_from([b"", b"{", b"}"])), max_size=8))
def test_no_bytes_are_fatal(tmp_path_factory: pytest.TempPathFactory, junk: list[bytes]) -> None:
    """Two lines are found, whatever bytes are between them."""
    log = tmp_path_factory.mktemp("junk") / "log"
    between = b"\n".join(b.removeprefix(b"\x1f\x8b") for b in junk)
    log.write_bytes(text(LINES[0]).encode() + between + b"\n" + text(LINES[1]).encode())
    assert [line["path"] for line in LINES[:2]] == [
        r.path for r in all_of(from_logs.history([str(log)]))
    ]


WILD = st.one_of(
    st.none(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=8),
    st.lists(st.integers(-2, 99), max_size=3),
    st.sampled_from([{"ranks": [1, 2], "energy": [0.5]}, {"te1": [[None, 1, 2, 3]]}, {"total": 1}]),
)
NAMES = ("bytes_in", "bytes_out", "delta_error", "seconds", "spectrum", "blocks", "family", "path",
         "reason", "message", "sha256_in", "archive_path", "job_id", "mode", "watch")  # fmt: skip
STAMPS = ("2026-01-01T00:00:00Z", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59-12:00")


@pytest.mark.slow
@given(st.lists(st.dictionaries(st.sampled_from(NAMES), WILD), max_size=3), st.sampled_from(STAMPS))
def test_no_value_is_fatal(
    tmp_path_factory: pytest.TempPathFactory, changes: list[Line], stamp: str
) -> None:
    """For any values in a line, the report is valid, and page and CSV can be written."""
    log = tmp_path_factory.mktemp("wild") / "log"
    log.write_text(text(*({**LINES[0], "timestamp": stamp, **c} for c in changes), LINES[1]))
    history = from_logs.history([str(log)], drawn=True)
    zone = dt.timezone(dt.timedelta(hours=-11))
    now = NOW.astimezone(zone)
    document = json.loads(to_json(summarize(history, Period(), now, "x")))
    VALIDATOR.validate(json.loads(json.dumps(document, allow_nan=False)))
    render.html(history, Period(), now, "x").encode()
    sheet.write(all_of(history), io.StringIO(), zone)


def test_fields_of_the_wrong_kind_and_times_without_a_zone(tmp_path: Path) -> None:
    """A line with invalid fields is counted as incomplete."""
    broken = [{**LINES[0], "bytes_in": "many"}, {**LINES[1], "timestamp": "2026-01-01T00:00:00"}]
    log = tmp_path / "log"
    log.write_text(text(*broken, LINES[2]))
    history = from_logs.history([str(log)])
    assert [LINES[2]["path"]] == [r.path for r in all_of(history)]
    assert of_logs(history).cut == 2


def test_a_recovered_line_counts_once(tmp_path: Path) -> None:
    """After a crash, the next start may log a line again that was not lost."""
    line = LINES[0]
    again = later(line, "file.compressed", recovered=True)
    [record] = records(tmp_path, again, line)
    assert record.when == dt.datetime.fromisoformat(line["timestamp"]).timestamp()


def test_a_restored_original_saves_nothing(tmp_path: Path) -> None:
    """If the original was moved back, the archive no longer has it; if it was copied, it has."""
    line = LINES[0]
    for method, held in (("move", 0), ("copy", line["bytes_in"])):
        back = later(line, "file.restored", method=method, sha256=line["sha256_in"], bytes=9)
        log = tmp_path / method
        log.write_text(text(line, back, line))  # a repeated line changes nothing
        history = from_logs.history([str(log)])
        document = summarize(history, Period(), NOW, "x")
        assert document.outcomes == {"restored": 1}
        assert document.bytes.saved_in_folders == 0
        assert document.bytes.held_by_archive == held


def test_a_newer_output_replaces_the_older(tmp_path: Path) -> None:
    """The archive keeps the original of the older output, unless it is the same."""
    line = LINES[0]
    newer = later(line, "file.compressed", job_id="b", sha256_in="b" * 64, bytes_in=10**9)
    redone = later(newer, "file.compressed", job_id="c", bytes_out=5)
    found = records(tmp_path, line, newer, redone)
    assert [r.outcome for r in found] == ["replaced", "replaced", "compressed"]
    history = from_logs.history([str(tmp_path / "log")])
    document = summarize(history, Period(), NOW, "x")
    assert document.bytes.saved_in_folders == 10**9 - 5
    assert document.bytes.held_by_archive == line["bytes_in"] + 10**9


def test_moved_files_and_deleted_originals(tmp_path: Path) -> None:
    """A record has the last path of its file; a pruned original is not in the archive."""
    line = LINES[0]
    moved = later(line, "file.moved", path="/srv/loras/new.safetensors", from_path=line["path"])
    pruned = later(moved, "file.pruned", sha256=line["sha256_in"], bytes=1)
    [record] = records(tmp_path, line, moved, pruned)
    assert record.path == "/srv/loras/new.safetensors"
    assert record.outcome == "compressed"
    assert record.measures.archive_path is None


def test_the_latest_outcome_of_a_path_counts(tmp_path: Path) -> None:
    """A failure is superseded by a later success; a kept newer file does not end the output."""
    line = LINES[0]
    failed = later(line, "file.failed", -60, job_id="a", reason="no_space", message="x")
    kept = later(line, "file.kept", 60, job_id="b", reason="returned", message="x")
    outcomes = [r.outcome for r in records(tmp_path, failed, line, kept)]
    assert outcomes == ["superseded", "compressed", "kept"]


def test_a_file_counts_once(tmp_path: Path) -> None:
    """Skipped in each run, then replaced by a good file, restored, and compressed again."""
    line = LINES[0]
    skipped = [
        later(line, "file.skipped", -n, job_id=None, reason="truncated", message="x")
        for n in (90, 60, 30)
    ]
    back = later(line, "file.restored", 30, method="move", sha256=line["sha256_in"], bytes=9)
    again = later(line, "file.compressed", 60, job_id="b")
    found = records(tmp_path, *skipped, line, back, again)
    assert [*["superseded"] * 4, "compressed"] == [r.outcome for r in found]
    history = from_logs.history([str(tmp_path / "log")])
    assert summarize(history, Period(), NOW, "x").reasons == []


def test_a_missing_log(tmp_path: Path) -> None:
    """The error has a remedy."""
    with pytest.raises(StorageError, match="check its name and permissions"):
        from_logs.history([str(tmp_path / "none")])
