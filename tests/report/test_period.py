"""The values of --since and --until."""

from __future__ import annotations

import datetime as dt

import pytest

from lensd.errors import UsageError
from lensd.report.period import Period, period

ZONE = dt.timezone(dt.timedelta(hours=2))
NOW = dt.datetime(2026, 3, 10, 12, 0, tzinfo=ZONE)


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


@pytest.mark.parametrize("text", ["yesterday", "7", "7m", "2026-02-30", "99999999999w", ""])
def test_an_invalid_time(text: str) -> None:
    """The error lists the valid forms."""
    with pytest.raises(UsageError, match="2026-01-31"):
        period(text, None, NOW)


def test_an_empty_period_is_an_error() -> None:
    """The error names the remedy."""
    with pytest.raises(UsageError, match="exchange them"):
        period("2d", "3d", NOW)
