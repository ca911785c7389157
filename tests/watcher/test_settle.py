"""Quiet or not: tables of what was seen when, on a clock that the test gives."""

from __future__ import annotations

from itertools import pairwise

import pytest

from lensd.store.identity import Identity
from lensd.watcher.settle import Key, Settler
from lensd.watcher.steady_clock import SteadyClock

KEY = Key("/srv/loras", "a.safetensors")
A = Identity(1, 1, 100, 1, 1)
LONGER, TOUCHED, OTHER, CHMOD = (
    A._replace(size=101), A._replace(mtime_ns=2), A._replace(inode=2), A._replace(ctime_ns=2),
)  # fmt: skip


def _settler() -> Settler:
    settler = Settler.new(quiet_seconds=5, unproven_seconds=60)
    settler.notice(KEY, 0.0)
    return settler


@pytest.mark.parametrize(
    ("seen", "quiet"),
    [
        ([(0, A)], 0),
        ([(0, A), (4.9, A)], 4.9),
        ([(0, A), (5, A)], 5),
        ([(0, A), (4, LONGER), (8, LONGER)], 4),
        ([(0, A), (4, TOUCHED), (9, TOUCHED)], 5),
        ([(0, A), (4, OTHER), (9, OTHER)], 5),
        ([(0, A), (4, CHMOD), (6, CHMOD)], 2),
        ([(0, A), (3, LONGER), (6, A), (12, A)], 6),
    ],
)
def test_any_difference_starts_the_quiet_time_anew(
    seen: list[tuple[float, Identity]], quiet: float
) -> None:
    """Size, mtime, ctime or inode: only the time since the last one counts."""
    settler = _settler()
    for now, identity in seen:
        found = settler.observe(KEY, identity, float(now))
    assert found == pytest.approx(quiet)
    assert settler.idle(KEY, float(now)) == pytest.approx(quiet)


def test_the_longer_time_is_never_the_shorter_one() -> None:
    """`unproven_seconds` below `quiet_seconds`."""
    assert Settler.new(5, 1).unproven_seconds == 5


@pytest.mark.parametrize("mtime", [0, 2**62])
def test_the_files_own_times_say_nothing(mtime: int) -> None:
    """A clock that was set by a year, or a file from the future: no job early or late."""
    settler = _settler()
    odd = A._replace(mtime_ns=mtime, ctime_ns=mtime)
    assert settler.observe(KEY, odd, 0.0) == 0
    assert settler.observe(KEY, odd, 4.9) < settler.quiet_seconds
    assert settler.observe(KEY, odd, 5.0) >= settler.quiet_seconds


def test_it_is_looked_at_when_the_quiet_time_may_be_over() -> None:
    """At once when noticed, then just when it may be quiet, then a second later."""
    settler = _settler()
    assert settler.next_due() == 0.0
    assert [KEY] == list(settler.due(0.0))
    settler.observe(KEY, A, 0.0)
    assert settler.next_due() == 5.0
    assert [] == list(settler.due(4.9))
    assert [KEY] == list(settler.due(5.0))
    settler.observe(KEY, LONGER, 5.0)
    assert settler.next_due() == 10.0
    assert [KEY] == list(settler.due(10.0))
    settler.observe(KEY, LONGER, 10.0)
    assert settler.next_due() == 11.0


def test_many_events_of_one_file_are_one_candidate() -> None:
    """A slow writer causes thousands of them; a dropped one may come anew."""
    settler = _settler()
    assert not settler.notice(KEY, 1.0)
    assert (len(settler), settler.has(KEY), settler.is_new(KEY)) == (1, True, True)
    assert settler.drop(KEY).first_seen == 0.0
    assert [] == list(settler.due(100.0))
    assert settler.notice(KEY, 2.0)
    assert [KEY] == list(settler.due(2.0))


def test_a_reason_to_wait_is_news_once() -> None:
    """The ledger is written when it changes, and not at every look."""
    settler = _settler()
    said = [settler.let_wait(KEY, reason) for reason in ("partner", "partner", "writer", "writer")]
    assert said == [True, False, True, False]
    assert settler.drop(KEY).waiting == "writer"


def test_one_that_waits_is_looked_at_later_and_later() -> None:
    """Every second at first; just when the longer time is over; at last twice a minute."""
    settler = _settler()
    looks: list[float] = []
    while (now := settler.next_due() or 0.0) < 4000:
        for key in settler.due(now):
            settler.observe(key, A, now)
            looks.append(now)
    pauses = [after - before for before, after in pairwise(looks)]
    assert looks[:4] == [0.0, 5.0, 6.0, 7.0]
    assert 60.0 in looks
    assert pauses[-1] == 30.0
    assert len(looks) < 200


def test_an_event_brings_the_look_of_one_that_waits_forward() -> None:
    """But no more than one a second; one that is not judged yet keeps its time."""
    settler = _settler()
    assert [KEY] == list(settler.due(0.0))
    settler.observe(KEY, A, 0.0)
    settler.notice(KEY, 3.0)
    assert settler.next_due() == 5.0
    settler.observe(KEY, A, 300.0)
    settler.let_wait(KEY, "writer")
    settler.notice(KEY, 300.1)
    assert [KEY] == list(settler.due(301.0))
    settler.observe(KEY, A, 301.0)
    settler.notice(KEY, 320.0)
    assert [KEY] == list(settler.due(320.0))


def test_the_quiet_time_begins_when_nobody_is_at_work() -> None:
    """A writer that holds the file open, and changes nothing that can be seen."""
    settler = _settler()
    settler.observe(KEY, A, 0.0)
    assert settler.observe(KEY, A, 100.0) == 100.0
    settler.note_busy(KEY, 100.0)
    assert settler.idle(KEY, 103.0) == 3.0
    assert settler.observe(KEY, A, 103.0) == 103.0
    assert [KEY] == list(settler.due(105.0))


def test_what_time_alone_will_settle_is_worth_waiting_for() -> None:
    """Not judged yet, or unproven; not a writer, nor an unproven file that changes."""
    settler = _settler()
    assert settler.may_settle_by_time()
    settler.observe(KEY, A, 0.0)
    assert settler.may_settle_by_time()
    settler.let_wait(KEY, "holes", unproven=True)
    assert settler.may_settle_by_time()
    settler.observe(KEY, LONGER, 6.0)
    assert not settler.may_settle_by_time()
    settler.let_wait(KEY, "writer")
    assert not settler.may_settle_by_time()
    settler.drop(KEY)
    assert not settler.may_settle_by_time()


def test_what_the_log_says_of_a_version_it_says_once() -> None:
    """The next version is news again."""
    settler = _settler()
    settler.observe(KEY, A, 0.0)
    assert [settler.is_first_report(KEY) for _ in range(3)] == [True, False, False]
    settler.observe(KEY, LONGER, 1.0)
    assert settler.is_first_report(KEY)


YEAR = 365 * 86400.0


@pytest.mark.parametrize("jump", [YEAR, -YEAR, 61.0, -0.1])
def test_steady_seconds_do_not_jump(jump: float) -> None:
    """A clock that is set, or a process that slept: the time in between does not count."""
    clock = SteadyClock()
    before = [clock.at(t) for t in (10.0, 11.0, 13.0)]
    after = [clock.at(t + jump) for t in (13.0, 14.0, 15.0)]
    assert [t - before[0] for t in before + after] == pytest.approx([0, 1, 3, 3, 4, 5])
    assert clock.reading(clock.at(16.0 + jump)) == pytest.approx(16.0 + jump)
