"""How much time lensd has seen pass: a clock that is set to another date does not change it.

Within one boot the kernel's seconds since boot prove what passed, also while lensd did not run.
Between two boots only the wall clock says anything, so a gap counts for no more than a day.
"""

from __future__ import annotations

import json
import time
from typing import NamedTuple

from lensd.store.ledger.database import Database
from lensd.store.ledger.entry import Entry
from lensd.store.ledger.notes import Note

DAY_SECONDS = 86400.0
CLOCK_WAS_SET_SECONDS = 3600.0
NOTE_SECONDS = 3600.0  # between two notes in the ledger
GRACE_SECONDS = 7 * DAY_SECONDS  # before the first deletion of rows that an older lensd wrote
FIRST_DATE = 1_735_689_600.0  # 2025-01-01: there was no lensd before, so such a date is wrong


class Clocks(NamedTuple):
    """What the kernel says now. `uptime`: seconds since boot, sleep included; `wall`: wall time."""

    boot: str  # the id of this boot; "" if unknown
    uptime: float
    wall: float


class Mark(NamedTuple):
    """The clocks at one moment, and the time that lensd had seen until then.

    `since`: the wall time of the first mark. `jumped`: `seen` when the wall clock was last set.
    """

    boot: str
    uptime: float
    wall: float
    seen: float
    since: float
    jumped: float | None = None


def read_clocks() -> Clocks:
    """From files of the kernel: libraries that change the clock of a process do not reach them."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            boot = file.read().strip()
        with open("/proc/uptime") as file:
            return Clocks(boot, float(file.read().split()[0]), time.time())
    except (OSError, ValueError):
        return Clocks("", 0.0, time.time())


def advance(mark: Mark, now: Clocks) -> float:
    """The time that lensd has seen until now."""
    if _is_same_boot(mark, now):
        return mark.seen + now.uptime - mark.uptime
    return mark.seen + min(max(0.0, now.wall - mark.wall), DAY_SECONDS)


def find_jump(mark: Mark, now: Clocks) -> float | None:
    """By how many seconds the wall clock was set since the mark, as far as that is provable."""
    passed = now.uptime - mark.uptime if _is_same_boot(mark, now) else 0.0
    jump = now.wall - mark.wall - passed
    is_provable = jump < 0 or _is_same_boot(mark, now)
    return jump if is_provable and abs(jump) > CLOCK_WAS_SET_SECONDS else None


def _is_same_boot(mark: Mark, now: Clocks) -> bool:
    return bool(now.boot) and mark.boot == now.boot and now.uptime >= mark.uptime


class ObservedTime:
    """The mark in the ledger."""

    def __init__(self, database: Database) -> None:
        self._note: Note[Mark] = Note(database, "clock", json.dumps, _mark_from_text)

    def now(self) -> float:
        """Seconds that lensd has seen pass since its first mark; 0 without one."""
        mark = self._note.get()
        return 0.0 if mark is None else advance(mark, read_clocks())

    def observe(self, now: Clocks | None = None) -> float | None:
        """Write a mark, at most once an hour. Returns the seconds by which the clock was set."""
        now = now or read_clocks()
        mark = self._note.get()
        if mark is None:
            self._note.set(Mark(*now, 0.0, now.wall))
            return None
        seen, jump = advance(mark, now), find_jump(mark, now)
        if jump is not None or mark.boot != now.boot or seen - mark.seen >= NOTE_SECONDS:
            jumped = mark.jumped if jump is None else seen
            self._note.set(Mark(*now, seen, mark.since, jumped))
        return jump

    def pause(self) -> float:
        """For how many seconds more nothing may be deleted, since the clock was set."""
        mark, now = self._note.get(), read_clocks()
        if mark is None:
            return 0.0
        if find_jump(mark, now) is not None:
            return DAY_SECONDS
        if mark.jumped is None:
            return 0.0
        return max(0.0, mark.jumped + DAY_SECONDS - advance(mark, now))

    def age(self, entry: Entry) -> float:
        """The seconds that lensd has seen pass since an output was published.

        For a row of an older lensd, by its dates: what they say of the time before the first mark,
        unless that is before there was a lensd.
        """
        now = self.now()
        if entry.observed is not None:
            return now - entry.observed
        mark, published = self._note.get(), entry.published
        if mark is None or published is None or published < FIRST_DATE:
            return now
        return now + max(0.0, mark.since - published)

    def grace(self, entry: Entry) -> float:
        """For how many seconds more a row of an older lensd keeps its original."""
        return 0.0 if entry.observed is not None else max(0.0, GRACE_SECONDS - self.now())


def _mark_from_text(found: str) -> Mark:
    match json.loads(found):
        case [str(boot), *numbers] if len(numbers) == len(Mark._fields) - 1:
            uptime, wall, seen, since, jumped = numbers
            last = None if jumped is None else float(jumped)
            return Mark(boot, float(uptime), float(wall), float(seen), float(since), last)
        case value:
            raise ValueError(value)
