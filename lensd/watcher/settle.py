"""Which path is quiet: a pure table of candidates with a given clock.

Times are seconds of a monotonic clock, so that a clock set by a year settles nothing. A candidate
is looked at again when its quiet time has run out; any difference between two looks starts it anew.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from lensd.store.identity import Identity

# How soon a quiet path that has to wait is looked at again: later and later, but not too late.
LOOK_AGAIN_SECONDS = 1.0
LOOK_AGAIN_LATEST = 30.0
LOOK_AGAIN_SHARE = 0.1  # of the time that it has been quiet


class Key(NamedTuple):
    """A path: the root of its watched folder, and what follows."""

    root: str
    path: str


@dataclass(slots=True)
class Candidate:
    first_seen: float
    changed: float  # when the last difference was seen
    looked: float  # when it was looked at last
    look: float  # when to look next
    identity: Identity | None = None
    waiting: str | None = None
    busy: float = -math.inf  # when somebody was last seen at work on it
    unproven: bool = False  # only time is missing
    told: bool = False  # the log has said of this version that it is not whole


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

    def is_new(self, key: Key) -> bool:
        """Whether it was noticed but never looked at."""
        return self._candidates[key].identity is None

    def undecided(self) -> int:
        """How many candidates there are of which nothing is said yet, so that time settles them."""
        return sum(candidate.waiting is None for candidate in self._candidates.values())

    def keys(self) -> Iterator[Key]:
        return iter(self._candidates)

    def notice(self, key: Key, now: float) -> bool:
        """An event or a scan named a path. True if it is a new candidate.

        One that is known and waits is looked at soon: what it waits for may have happened.
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
        """The candidates whose next look has come."""
        while self._queue and self._queue[0][0] <= now:
            look, key = heapq.heappop(self._queue)
            candidate = self._candidates.get(key)
            if candidate is not None and candidate.look == look:
                yield key

    def next_due(self) -> float | None:
        """When the next look comes, at the earliest."""
        return self._queue[0][0] if self._queue else None

    def observe(self, key: Key, identity: Identity, now: float) -> float:
        """What the path is now. Returns the seconds for which it has been just that."""
        candidate = self._candidates[key]
        candidate.looked = now
        if candidate.identity != identity:
            candidate.identity, candidate.changed = identity, now
            candidate.unproven = candidate.told = False
        self._schedule(key, candidate, now + self._until_next(self.idle(key, now)))
        return now - candidate.changed

    def idle(self, key: Key, now: float) -> float:
        """Seconds since a difference, or somebody at work on it, was last seen."""
        candidate = self._candidates[key]
        return now - max(candidate.changed, candidate.busy)

    def busy(self, key: Key, now: float) -> None:
        """Somebody is at work on the path, though it looks as before."""
        self._candidates[key].busy = now

    def wait(self, key: Key, reason: str, *, unproven: bool = False) -> bool:
        """Note why a path is not taken yet. True if that is news."""
        candidate = self._candidates[key]
        news = candidate.waiting != reason
        candidate.waiting, candidate.unproven = reason, unproven
        return news

    def tell(self, key: Key) -> bool:
        """Whether the log has to say of this version that it is not whole: True once."""
        candidate = self._candidates[key]
        first, candidate.told = not candidate.told, True
        return first

    def hopeful(self) -> bool:
        """Whether time alone may settle a path: it was not judged yet, or is only unproven."""
        return any(c.waiting is None or c.unproven for c in self._candidates.values())

    def drop(self, key: Key) -> Candidate:
        """The path is settled, gone or none of lensd's business."""
        return self._candidates.pop(key)

    def _until_next(self, quiet: float) -> float:
        """Seconds to the next look: just when one of the quiet times is over, or some later."""
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
