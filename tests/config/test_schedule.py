"""lensd.config.schedule: the daily window, at given times."""

from __future__ import annotations

import datetime as dt
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensd.config.schedule import Window, is_open, opens_in, parse

DAY = 24 * 60
MOMENTS = st.datetimes(dt.datetime(2020, 1, 1), dt.datetime(2030, 1, 1))  # noqa: DTZ001  wall clock
WINDOWS = (
    st.tuples(st.integers(0, DAY - 1), st.integers(0, DAY))
    .filter(lambda w: w[0] != w[1])
    .map(lambda w: Window(*w))
)


def at(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(f"2026-03-01T{text}")


@pytest.mark.parametrize(
    ("schedule", "open_at", "closed_at"),
    [
        ("01:00-07:00", ["01:00:00", "06:59:59.9"], ["00:59:59", "07:00:00", "23:00:00"]),
        ("22:30-06:00", ["22:30:00", "23:59:59", "00:00:00", "05:59:00"], ["06:00:00", "22:29:59"]),
        ("22:00-24:00", ["22:00:00", "23:59:59"], ["00:00:00", "21:59:59"]),
        ("00:00-24:00", ["00:00:00", "12:00:00", "23:59:59"], []),
    ],
)
def test_a_window_includes_its_start_and_not_its_end(
    schedule: str, open_at: list[str], closed_at: list[str]
) -> None:
    """So it is over midnight too; 24:00 is the end of the day."""
    window = parse(schedule)
    assert all(is_open(window, at(moment)) for moment in open_at)
    assert not any(is_open(window, at(moment)) for moment in closed_at)


def test_without_a_schedule_it_is_always_open() -> None:
    assert is_open(None, at("12:00"))
    assert opens_in(None, at("12:00")) == 0


@given(window=WINDOWS, now=MOMENTS)
def test_opens_in_is_the_time_until_the_window_opens(window: Window, now: dt.datetime) -> None:
    """After `opens_in` seconds it is open, and shortly before that it is closed."""
    seconds = opens_in(window, now)
    assert 0 <= seconds < DAY * 60
    assert is_open(window, now) == (seconds == 0)
    opening = now + dt.timedelta(seconds=seconds)
    assert is_open(window, opening + dt.timedelta(microseconds=1))
    if seconds > 0:
        assert not is_open(window, opening - dt.timedelta(milliseconds=1))


@pytest.mark.parametrize(("day", "hours"), [("2026-03-29", 1), ("2026-10-25", 3)])
def test_a_change_to_or_from_summer_time_changes_the_length(day: str, hours: int) -> None:
    """The wall clock decides, also for the hour that is skipped or comes twice."""
    window, zone = parse("01:00-03:00"), ZoneInfo("Europe/Berlin")
    midnight = dt.datetime.fromisoformat(f"{day}T00:00").replace(tzinfo=zone).astimezone(dt.UTC)
    minutes = [midnight + dt.timedelta(minutes=m) for m in range(6 * 60)]
    assert sum(is_open(window, m.astimezone(zone)) for m in minutes) == hours * 60


@pytest.mark.parametrize(
    "text",
    ["", "1:00-7:00", "01:00", "01:00-25:00", "24:00-07:00", "01:60-02:00", "01:00-07:00\n",
     "01:00 - 07:00", "01:00-01:00", "Mon 01:00-07:00", "00:00-00:00"],
)  # fmt: skip
def test_other_text_is_no_window(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a time of day|begins and ends at the same time"):
        parse(text)
