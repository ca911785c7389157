"""The time that lensd has seen pass, whatever the clock says."""

from __future__ import annotations

import pytest

from lensd.store.ledger import JobState, Ledger, Outcome
from lensd.store.ledger.observed import (
    DAY_SECONDS,
    FIRST_DATE,
    GRACE_SECONDS,
    Clocks,
    Mark,
    advance,
    find_jump,
    read_clocks,
)
from tests.store.ledger.conftest import FIRST, ROOT, WATCH

HOUR, NOW = 3600.0, 1_800_000_000.0
MARK = Mark("boot", 100.0, NOW, 5 * DAY_SECONDS, NOW - 5 * DAY_SECONDS)


def after(seconds: float, *, wall: float | None = None, boot: str = "boot") -> Clocks:
    """The clocks `seconds` after MARK; `wall`: what the wall clock says passed, if not that."""
    uptime = MARK.uptime + seconds if boot == "boot" else 10.0
    return Clocks(boot, uptime, NOW + (seconds if wall is None else wall))


@pytest.mark.fault("clock")
@pytest.mark.parametrize("wall", [400 * DAY_SECONDS, -400 * DAY_SECONDS, 0.0])
def test_within_one_boot_the_clock_has_no_say(wall: float) -> None:
    """A month without lensd counts as a month; a clock that was set is found."""
    month = 30 * DAY_SECONDS
    assert advance(MARK, after(month)) == MARK.seen + month
    assert advance(MARK, after(month, wall=wall)) == MARK.seen + month
    assert find_jump(MARK, after(month)) is None
    assert find_jump(MARK, after(month, wall=wall)) == wall - month


@pytest.mark.fault("clock")
@pytest.mark.parametrize(
    ("wall", "counts"),
    [(10 * HOUR, 10 * HOUR), (30 * DAY_SECONDS, DAY_SECONDS), (-HOUR * 2, 0.0), (-5.0, 0.0)],
)
def test_a_gap_between_two_boots_counts_for_a_day_at_most(wall: float, counts: float) -> None:
    """A night does; a month may be a wrong clock; a clock that was set back counts for nothing."""
    now = after(0, wall=wall, boot="other")
    assert advance(MARK, now) == MARK.seen + counts
    assert find_jump(MARK, now) == (wall if wall < -HOUR else None)


def test_a_container_that_counts_from_its_own_start() -> None:
    """The same boot with fewer seconds since boot: as another boot."""
    now = Clocks("boot", 3.0, NOW + 2 * HOUR)
    assert advance(MARK, now) == MARK.seen + 2 * HOUR


def test_the_ledger_keeps_the_mark(ledger: Ledger) -> None:
    """It is written once an hour, and when the clock was set; the pause outlasts a restart."""
    observed, began = ledger.observed, read_clocks()
    assert observed.observe(began) is None
    assert observed.observe(began._replace(wall=began.wall + 1)) is None
    assert observed.pause() == 0
    jumped = began._replace(wall=began.wall + 400 * DAY_SECONDS)
    assert observed.observe(jumped) == pytest.approx(400 * DAY_SECONDS)
    assert observed.observe(jumped) is None
    assert observed.observe(began) == pytest.approx(-400 * DAY_SECONDS)
    assert observed.pause() == pytest.approx(DAY_SECONDS, abs=60)
    assert observed.now() < 60


def _published(ledger: Ledger, job_id: str, **columns: object) -> None:
    ledger.jobs.enqueue(job_id, ROOT, WATCH, job_id, FIRST)
    ledger.jobs.update(job_id, state=JobState.PUBLISHED, outcome=Outcome.COMPRESSED)
    ledger.jobs.finish(job_id, Outcome.COMPRESSED)
    for name, value in columns.items():
        with ledger._database.change() as db:
            db.execute(f"UPDATE files SET {name} = ? WHERE job_id = ?", (value, job_id))  # noqa: S608


@pytest.mark.fault("clock")
def test_the_age_of_an_output(ledger: Ledger) -> None:
    """From its publishing; of an older lensd's row by its dates, after a week of grace."""
    clocks = read_clocks()
    ledger.observed.observe(clocks._replace(uptime=clocks.uptime - 9))
    since = clocks.wall
    _published(ledger, "new", published=since - 400 * DAY_SECONDS)
    _published(ledger, "old", published=since - 40 * DAY_SECONDS, observed=None)
    _published(ledger, "2020", published=FIRST_DATE - 1, observed=None)
    ages = {name: ledger.observed.age(ledger.jobs.get(name)) for name in ("new", "old", "2020")}
    assert ages["new"] == pytest.approx(0, abs=5)
    assert ages["old"] == pytest.approx(40 * DAY_SECONDS, abs=60)
    assert ages["2020"] == pytest.approx(9, abs=5)
    assert ledger.observed.grace(ledger.jobs.get("new")) == 0
    assert ledger.observed.grace(ledger.jobs.get("old")) == pytest.approx(GRACE_SECONDS, abs=60)


def test_a_job_that_recovery_completes_has_a_date(ledger: Ledger) -> None:
    """A crash before the row said `published`: without a date its original would stay for ever."""
    ledger.jobs.enqueue("job", ROOT, WATCH, "a", FIRST)
    ledger.jobs.update("job", state=JobState.PUBLISHING)
    ledger.jobs.finish("job", Outcome.COMPRESSED)
    entry = ledger.jobs.get("job")
    assert entry.published is not None
    assert entry.observed is not None
