"""The numbers of a report equal sums over its records."""

from __future__ import annotations

import datetime as dt
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensd.report.documents import FromLedger
from lensd.report.history import History
from lensd.report.period import Period
from lensd.report.record import Measures, Record, Seconds
from lensd.report.records import InMemory
from lensd.report.summary import summarize

NOW = dt.datetime(2026, 12, 1, tzinfo=dt.UTC)
DAY = 86400.0

measures = st.builds(
    Measures,
    mode=st.sampled_from(["rank", "ultra"]),
    family=st.sampled_from(["sd15", "flux", None]),
    bytes_in=st.integers(1000, 10**9),
    bytes_out=st.integers(1, 999),
    delta_error=st.floats(0, 1),
    seconds=st.builds(Seconds, total=st.floats(0, 100), wait=st.floats(0, 5)),
    archive_path=st.sampled_from(["/a/1", "/a/2", None]),
    sha256_in=st.sampled_from(["1" * 64, "2" * 64]),
)
records = st.builds(
    Record,
    path=st.sampled_from(["/l/a", "/l/b"]),
    watch=st.just("l"),
    job_id=st.none(),
    outcome=st.sampled_from(["compressed", "replaced", "restored", "kept", "failed"]),
    when=st.floats(0, 30 * DAY),
    measures=measures,
    reason=st.sampled_from(["no_gain", "not_finite", None]),
)


@given(st.lists(records, max_size=20), st.floats(0, 30 * DAY))
def test_the_numbers_are_those_of_the_records(found: list[Record], since: float) -> None:
    """Counts, bytes, groups, days and errors of a period."""
    history = History(source=FromLedger(state="/s"), records=InMemory(found))
    document = summarize(history, Period(since), NOW, "x")
    inside = [r for r in found if r.when >= since]
    outputs = [r.measures for r in inside if r.outcome == "compressed"]
    saved = sum((m.bytes_in or 0) - (m.bytes_out or 0) for m in outputs)
    assert sum(document.outcomes.values()) == len(inside)
    assert document.bytes.saved_in_folders == saved
    assert sum(day.saved for day in document.days) == saved
    assert sum(group.files for group in document.ratios) == len(outputs)
    for group in document.ratios:
        ratio = group.bytes_in / group.bytes_out
        assert group.ratio == pytest.approx(ratio, rel=1e-4)
    errors = [r.measures.delta_error or 0.0 for r in inside]
    if errors:
        quantiles = document.delta_error
        assert quantiles is not None
        assert quantiles.min == pytest.approx(min(errors), abs=1e-6)
        assert quantiles.max == pytest.approx(max(errors), abs=1e-6)
        low, high = statistics.median_low(errors), statistics.median_high(errors)
        assert low - 1e-6 <= quantiles.p50 <= high + 1e-6
    assert len(document.failures) == sum(r.outcome == "failed" for r in inside)
    slow = [job.path for job in document.slowest]
    assert sorted(slow) == sorted({r.path for r in inside})
    times = [f.when for f in document.failures]
    assert times == sorted(times, reverse=True)
    assert len({f.path for f in document.uncompressed}) == len(document.uncompressed)


def test_an_original_is_counted_once() -> None:
    """Even if two jobs had it as their input."""
    m = Measures(bytes_in=100, bytes_out=10, archive_path="/a/1", sha256_in="1" * 64)
    found = [
        Record(path="/l/a", watch="l", job_id=j, outcome=o, when=1.0, measures=m)
        for j, o in (("a", "replaced"), ("b", "compressed"))
    ]
    history = History(source=FromLedger(state="/s"), records=InMemory(found))
    totals = summarize(history, Period(), NOW, "x").bytes
    assert (totals.saved_in_folders, totals.held_by_archive, totals.net) == (90, 100, -10)
