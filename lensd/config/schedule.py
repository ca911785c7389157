"""The daily window of local time in which jobs are started.

The functions are pure: the caller passes the time. A caller that waits for the window must read the
wall clock again every minute or so, because a clock can be set, and changes twice a year.
"""

from __future__ import annotations

import datetime as dt
import re
from typing import NamedTuple

PATTERN = r"^([01][0-9]|2[0-3]):[0-5][0-9]-(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$"
_DAY = 24 * 60


class Window(NamedTuple):
    """From `start` to before `end`, in minutes since midnight.

    If `end` is earlier than `start`, the window includes midnight.
    """

    start: int
    end: int


def parse(text: str) -> Window:
    """Parse a window such as "22:30-06:00". Raises ValueError with a message for users."""
    if re.fullmatch(PATTERN, text) is None:
        raise ValueError(f"{text!r} is not a time of day from HH:MM to HH:MM")
    start, end = (_minutes(part) for part in text.split("-"))
    if start == end:
        raise ValueError(f"{text!r} begins and ends at the same time")
    return Window(start, end)


def is_open(schedule: Window | None, now: dt.datetime) -> bool:
    """Whether the local time `now` is in the window; without a schedule it always is."""
    if schedule is None:
        return True
    minute = now.hour * 60 + now.minute
    if schedule.start < schedule.end:
        return schedule.start <= minute < schedule.end
    return minute >= schedule.start or minute < schedule.end


def opens_in(schedule: Window | None, now: dt.datetime) -> float:
    """Return the seconds on the wall clock until the window opens; 0 while it is open."""
    if schedule is None or is_open(schedule, now):
        return 0.0
    passed = (now.hour * 60 + now.minute) * 60 + now.second + now.microsecond / 1e6
    return (schedule.start * 60 - passed) % (_DAY * 60)


def _minutes(text: str) -> int:
    hour, minute = text.split(":")
    return int(hour) * 60 + int(minute)
