"""Which path is quiet: a pure table of candidates, with a clock that the caller gives.

Times are seconds of a monotonic clock, so that a clock that is set by a year settles nothing. A
candidate is looked at again when its quiet time is over; any difference between two looks begins
the quiet time again.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from lensd.store.identity import Identity

# When to look again at a quiet path that must wait: after a growing pause within these limits.
LOOK_AGAIN_SECONDS = 1.0
LOOK_AGAIN_LATEST = 30.0
LOOK_AGAIN_SHARE = 0.1  # of the time for which it was quiet


class Key(NamedTuple):
    """A path: the root of its watched folder, and the path below it."""

    root: str
    path: str


@dataclass(slots=True)
class Candidate:
    first_seen: float
    changed: float  # when a look last found a difference
    looked: float  # the last look
    look: float  # the next look
    identity: Identity | None = None
    waiting: str | None = None  # why it must wait
    busy: float = -math.inf  # when a program was last seen at work on it
    unproven: bool = False  # it waits only for time to pass
    reported: bool = False  # the log has a line that this version is incomplete


@dataclass(frozen=True, slots=True)
class Settler:
    """Candidates and their quiet times."""

    quiet_seconds: float
    unproven_seconds: float
    _candidates: dict[Key, Candidate]
    _queue: list[tuple[float, Key]]

    @classmethod
    def new(cls, quiet_seconds: float, unproven_seconds: float) -> Settler:
        return cls(quiet_seconds, max(quiet_seconds, unproven_seconds), {}, [])

    def __len__(self) -> int:
        return len(self._candidates)

    def has(self, key: Key) -> bool:
        return key in self._candidates

    def candidate(self, key: Key) -> Candidate:
        """What is known of a candidate, to be read."""
        return self._candidates[key]

    def is_new(self, key: Key) -> bool:
        """Whether it was noticed but never looked at."""
        return self._candidates[key].identity is None

    def undecided(self) -> int:
        """How many candidates have no reason to wait: each settles soon."""
        return sum(candidate.waiting is None for candidate in self._candidates.values())

    def keys(self) -> Iterator[Key]:
        return iter(self._candidates)

    def notice(self, key: Key, now: float) -> bool:
        """An event or a scan named a path. True if it is a new candidate.

        A known one that waits is looked at soon: what it waits for may have happened.
        """
        known = self._candidates.get(key)
        if known is None:
            self._candidates[key] = Candidate(first_seen=now, changed=now, looked=now, look=now)
            self._put(key, now)
            return True
        soon = max(now, known.looked + LOOK_AGAIN_SECONDS)
        if known.waiting is not None and soon < known.look:
            self._schedule(key, known, soon)
        return False

    def due(self, now: float) -> Iterator[Key]:
        """The candidates whose next look is due."""
        while self._queue and self._queue[0][0] <= now:
            look, key = heapq.heappop(self._queue)
            candidate = self._candidates.get(key)
            if candidate is not None and candidate.look == look:
                yield key

    def next_due(self) -> float | None:
        """When the next look may be due; it is not due earlier."""
        return self._queue[0][0] if self._queue else None

    def observe(self, key: Key, identity: Identity, now: float) -> float:
        """Note what a look found. Returns for how many seconds it has been the same."""
        candidate = self._candidates[key]
        candidate.looked = now
        if candidate.identity != identity:
            candidate.identity, candidate.changed = identity, now
            candidate.unproven = candidate.reported = False
        self._schedule(key, candidate, now + self._seconds_to_next_look(self.idle(key, now)))
        return now - candidate.changed

    def look_again(self, key: Key, now: float) -> None:
        """A look failed, but not because of the file. Without effect if that was dropped."""
        candidate = self._candidates.get(key)
        if candidate is not None:
            self._schedule(key, candidate, now + LOOK_AGAIN_SECONDS)

    def idle(self, key: Key, now: float) -> float:
        """Seconds since a look found a difference, or a program at work on it."""
        candidate = self._candidates[key]
        return now - max(candidate.changed, candidate.busy)

    def note_busy(self, key: Key, now: float) -> None:
        """A program is at work on the path, though it has not changed."""
        self._candidates[key].busy = now

    def let_wait(self, key: Key, reason: str, *, unproven: bool = False) -> bool:
        """Note why a path is no job yet. True if the reason is new."""
        candidate = self._candidates[key]
        is_new = candidate.waiting != reason
        candidate.waiting, candidate.unproven = reason, unproven
        return is_new

    def is_first_report(self, key: Key) -> bool:
        """Whether the log has no line yet that this version is incomplete. True once."""
        candidate = self._candidates[key]
        is_first, candidate.reported = not candidate.reported, True
        return is_first

    def may_settle_by_time(self) -> bool:
        """Whether a candidate may settle without a change: undecided, or only unproven."""
        return any(c.waiting is None or c.unproven for c in self._candidates.values())

    def quiet_at(self) -> float | None:
        """When all candidates have settled that settle by time alone; None without any."""
        return max(
            (
                max(c.changed, c.busy)
                + (self.unproven_seconds if c.unproven else self.quiet_seconds)
                for c in self._candidates.values()
                if c.waiting is None or c.unproven
            ),
            default=None,
        )

    def drop(self, key: Key) -> Candidate:
        """The path is settled, or gone, or known to the ledger."""
        return self._candidates.pop(key)

    def _seconds_to_next_look(self, quiet: float) -> float:
        """To the end of the next quiet time, or less."""
        if quiet < self.quiet_seconds:
            return self.quiet_seconds - quiet
        pause = max(LOOK_AGAIN_SECONDS, min(LOOK_AGAIN_SHARE * quiet, LOOK_AGAIN_LATEST))
        left = self.unproven_seconds - quiet
        return min(pause, left) if left > 0 else pause

    def _schedule(self, key: Key, candidate: Candidate, look: float) -> None:
        candidate.look = look
        self._put(key, look)

    def _put(self, key: Key, look: float) -> None:
        heapq.heappush(self._queue, (look, key))
