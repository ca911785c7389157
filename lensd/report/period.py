"""`7d`, `2026-01-31` or an ISO time -> a moment; and the time between two of them."""

from __future__ import annotations

import datetime as dt
import re
from typing import NamedTuple

from lensd.errors import UsageError

_AGO = re.compile(r"(\d+)([hdw])")
_UNITS = {"h": dt.timedelta(hours=1), "d": dt.timedelta(days=1), "w": dt.timedelta(weeks=1)}
_DAY = re.compile(r"\d{4}-\d\d-\d\d")


class Period(NamedTuple):
    """Seconds since 1970; None: open. `until` itself is outside."""

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
    """What was asked for; days are those of `now`'s time zone. Raises UsageError.

    `since` a day: from its beginning. `until` a day: to its end.
    """
    begin = None if since is None else moment("--since", since, now)
    end = None if until is None else moment("--until", until, now, end_of_day=True)
    if begin is not None and end is not None and begin >= end:
        raise UsageError(f"--since {since} is not before --until {until}; exchange the two")
    return Period(begin, end)


def moment(option: str, text: str, now: dt.datetime, *, end_of_day: bool = False) -> float:
    """Seconds since 1970. Raises UsageError with the three ways to write it."""
    try:
        if ago := _AGO.fullmatch(text):
            return (now - int(ago[1]) * _UNITS[ago[2]]).timestamp()
        found = dt.datetime.fromisoformat(text)
        if _DAY.fullmatch(text) and end_of_day:
            found += dt.timedelta(days=1)
        return (found if found.tzinfo else found.replace(tzinfo=now.tzinfo)).timestamp()
    except (ValueError, OverflowError):
        raise UsageError(
            f"{option} {text!r} is no time; write 12h, 7d or 2w (ago), a day as 2026-01-31, or "
            "2026-01-31T18:00"
        ) from None
