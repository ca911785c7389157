"""The values of --since and --until."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterator

import pytest

from lensd.errors import UsageError
from lensd.report.local_zone import LOCAL
from lensd.report.period import Period, period
from lensd.report.sums import local_time

ZONE = dt.timezone(dt.timedelta(hours=2))
NOW = dt.datetime(2026, 3, 10, 12, 0, tzinfo=ZONE)
# In ZONE, or for its timestamp, there is no such time.
EXTREMES = ("9999-12-31T23:00-05:00", "0001-01-01T00:00+14:00")


@pytest.mark.parametrize(
    ("since", "begin"),
    [
        ("36h", "2026-03-09T00:00:00+02:00"),
        ("7d", "2026-03-03T12:00:00+02:00"),
        ("2w", "2026-02-24T12:00:00+02:00"),
        ("2026-01-31", "2026-01-31T00:00:00+02:00"),
        ("2026-01-31T18:00", "2026-01-31T18:00:00+02:00"),
        ("2026-01-31T18:00:00Z", "2026-01-31T18:00:00+00:00"),
    ],
)
def test_since(since: str, begin: str) -> None:
    """A time ago, the begin of a day in the local time zone, or an exact time."""
    expected = dt.datetime.fromisoformat(begin).timestamp()
    assert Period(expected, None) == period(since, None, NOW)


def test_a_day_is_included() -> None:
    """--since and --until with the same day select that day."""
    day = period("2026-01-31", "2026-01-31", NOW)
    assert day.has(dt.datetime(2026, 1, 31, 0, 0, tzinfo=ZONE).timestamp())
    assert day.has(dt.datetime(2026, 1, 31, 23, 59, 59, tzinfo=ZONE).timestamp())
    assert not day.has(dt.datetime(2026, 2, 1, 0, 0, tzinfo=ZONE).timestamp())


@pytest.mark.parametrize(
    "text", ["yesterday", "7", "7m", "2026-02-30", "99999999999w", "", *EXTREMES]
)
def test_an_invalid_time(text: str) -> None:
    """The error lists the valid forms."""
    with pytest.raises(UsageError, match="2026-01-31"):
        period(text, None, NOW)


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[dt.datetime]:
    """A moment of winter in a time zone with daylight saving time."""
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield dt.datetime(2026, 11, 28, 12, 0, tzinfo=LOCAL)
    monkeypatch.undo()
    time.tzset()


def _at(text: str) -> float:
    return dt.datetime.fromisoformat(text).timestamp()


@pytest.mark.parametrize(
    ("day", "begin", "end"),
    [
        ("2026-07-01", "2026-07-01T00:00+02:00", "2026-07-02T00:00+02:00"),
        ("2026-10-25", "2026-10-25T00:00+02:00", "2026-10-26T00:00+01:00"),
        ("2026-03-29", "2026-03-29T00:00+01:00", "2026-03-30T00:00+02:00"),
        ("2026-11-01", "2026-11-01T00:00+01:00", "2026-11-02T00:00+01:00"),
    ],
)
def test_a_day_of_the_other_half_of_the_year(
    berlin: dt.datetime, day: str, begin: str, end: str
) -> None:
    """It begins and ends by the clock of that day, not by the offset of today."""
    assert Period(_at(begin), _at(end)) == period(day, day, berlin)


def test_times_have_the_offset_of_their_moment(berlin: dt.datetime) -> None:
    """Also in the hour that comes twice; `7d` is 168 hours."""
    for text in ("2026-07-01T00:30:00+02:00", "2026-10-25T02:30:00+02:00"):
        assert text == local_time(_at(text), LOCAL)
        assert text == dt.datetime.fromtimestamp(_at(text), LOCAL).isoformat()
    twice = "2026-10-25T02:30:00+01:00"
    assert twice == local_time(_at(twice), LOCAL)
    assert twice == dt.datetime.fromtimestamp(_at(twice), LOCAL).isoformat()
    before = dt.datetime(2026, 10, 25, 12, 0, tzinfo=LOCAL)
    assert before.timestamp() - 24 * 3600 == period("1d", None, before).since
    assert berlin.tzname() == "CET"


def test_an_empty_period_is_an_error() -> None:
    """The error names the remedy."""
    with pytest.raises(UsageError, match="exchange them"):
        period("2d", "3d", NOW)
