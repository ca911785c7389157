"""The time zone of this machine, with the offset that it has at each moment.

That of `datetime.astimezone` is the offset of one moment, which is wrong in the other half of a
year with daylight saving time.
"""

from __future__ import annotations

import datetime as dt


class _LocalZone(dt.tzinfo):
    """Asks the C library, for each moment."""

    def utcoffset(self, when: dt.datetime | None) -> dt.timedelta | None:
        return None if when is None else when.replace(tzinfo=None).astimezone().utcoffset()

    def dst(self, when: dt.datetime | None) -> None:
        """Unknown."""

    def tzname(self, when: dt.datetime | None) -> str | None:
        return None if when is None else when.replace(tzinfo=None).astimezone().tzname()

    def fromutc(self, when: dt.datetime) -> dt.datetime:
        here = when.replace(tzinfo=dt.UTC).astimezone()
        found = here.replace(tzinfo=self)
        # at the end of daylight saving time an hour comes twice
        return found if found.utcoffset() == here.utcoffset() else found.replace(fold=1)


LOCAL = _LocalZone()
