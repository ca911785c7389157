"""Quiet or not: tables of what was seen when, on a clock that the test gives."""

from __future__ import annotations

import pytest

from lensd.intake.settle import Key, Settler
from lensd.store.identity import Identity

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
    assert settler.is_quiet(found) == (quiet >= 5)
    assert not settler.is_quiet(found, proven=False)


def test_a_file_without_proof_needs_the_longer_time() -> None:
    """`unproven_seconds`, which is never shorter than the quiet time."""
    settler = _settler()
    assert settler.is_quiet(60, proven=False)
    assert not settler.is_quiet(59.9, proven=False)
    assert Settler.new(5, 1).unproven_seconds == 5


@pytest.mark.parametrize("mtime", [0, 2**62])
def test_the_files_own_times_say_nothing(mtime: int) -> None:
    """A clock that was set by a year, or a file from the future: no job early or late."""
    settler = _settler()
    odd = A._replace(mtime_ns=mtime, ctime_ns=mtime)
    assert settler.observe(KEY, odd, 0.0) == 0
    assert not settler.is_quiet(settler.observe(KEY, odd, 4.9))
    assert settler.is_quiet(settler.observe(KEY, odd, 5.0))


def test_it_is_looked_at_when_the_quiet_time_may_be_over() -> None:
    """At once when noticed, then just when it may be quiet, then every second."""
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
    said = [settler.wait(KEY, reason) for reason in ("partner", "partner", "writer", "writer")]
    assert said == [True, False, True, False]
    assert settler.drop(KEY).waiting == "writer"
