"""The period of a report, from `7d`, `2026-01-31` or an ISO time."""

from __future__ import annotations

import datetime as dt
import re
from typing import NamedTuple

from lensd.errors import UsageError

_AGO = re.compile(r"(\d+)([hdw])")
_UNITS = {"h": dt.timedelta(hours=1), "d": dt.timedelta(days=1), "w": dt.timedelta(weeks=1)}
_DAY = re.compile(r"\d{4}-\d\d-\d\d")


class Period(NamedTuple):
    """From `since` to before `until`, in seconds since 1970; None: without a limit."""

    since: float | None = None
    until: float | None = None

    def has(self, when: float) -> bool:
        return (self.since is None or when >= self.since) and (
            self.until is None or when < self.until
        )

    @property
    def is_all(self) -> bool:
        return self.since is None and self.until is None


def period(since: str | None, until: str | None, now: dt.datetime) -> Period:
    """Parse --since and --until. Raises UsageError.

    A day means its begin for `since` and its end for `until`, in the time zone of `now`.
    """
    begin = None if since is None else moment("--since", since, now)
    end = None if until is None else moment("--until", until, now, end_of_day=True)
    if begin is not None and end is not None and begin >= end:
        raise UsageError(f"--since {since} is not before --until {until}; exchange them")
    return Period(begin, end)


def moment(option: str, text: str, now: dt.datetime, *, end_of_day: bool = False) -> float:
    """Parse one time to seconds since 1970. Raises UsageError."""
    try:
        if ago := _AGO.fullmatch(text):
            found = now.astimezone(dt.UTC) - int(ago[1]) * _UNITS[ago[2]]
        else:
            found = dt.datetime.fromisoformat(text)
            if _DAY.fullmatch(text) and end_of_day:
                found += dt.timedelta(days=1)
            if found.tzinfo is None:
                found = found.replace(tzinfo=now.tzinfo)
        return found.astimezone(now.tzinfo).timestamp()  # a report can write it in that zone
    except (ValueError, OverflowError):
        raise UsageError(
            f"{option} {text!r} is not a time; use 12h, 7d or 2w (ago), 2026-01-31, or "
            "2026-01-31T18:00"
        ) from None
