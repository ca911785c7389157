"""When jobs may be taken: a daily window of local time. Pure; the clock is the caller's.

The wall clock is set, and changes twice a year, while somebody waits: whoever waits for a window
looks at the clock again after LOOK_AGAIN_SECONDS at the latest.
"""

from __future__ import annotations

import datetime as dt
import re
from typing import NamedTuple

LOOK_AGAIN_SECONDS = 60.0
PATTERN = r"^([01][0-9]|2[0-3]):[0-5][0-9]-(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$"
_DAY = 24 * 60


class Window(NamedTuple):
    """From `start` up to `end`, minutes since midnight; over midnight where `end` is earlier."""

    start: int
    end: int


def parse(text: str) -> Window:
    """`"22:30-06:00"`. Raises ValueError, whose message says what is wrong with it."""
    if re.fullmatch(PATTERN, text) is None:
        raise ValueError(f"{text!r} is not a time of day from HH:MM to HH:MM")
    start, end = (_minutes(part) for part in text.split("-"))
    if start == end:
        raise ValueError(f"{text!r} ends when it begins")
    return Window(start, end)


def is_open(schedule: Window | None, now: dt.datetime) -> bool:
    """Whether the local time `now` is in the window; always without one."""
    if schedule is None:
        return True
    minute = now.hour * 60 + now.minute
    if schedule.start < schedule.end:
        return schedule.start <= minute < schedule.end
    return minute >= schedule.start or minute < schedule.end


def opens_in(schedule: Window | None, now: dt.datetime) -> float:
    """Seconds on the wall clock until the window opens; 0 while it is open."""
    if schedule is None or is_open(schedule, now):
        return 0.0
    passed = (now.hour * 60 + now.minute) * 60 + now.second + now.microsecond / 1e6
    return (schedule.start * 60 - passed) % (_DAY * 60)


def _minutes(text: str) -> int:
    hour, minute = text.split(":")
    return int(hour) * 60 + int(minute)
