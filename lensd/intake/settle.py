"""Which path is quiet: a pure table of candidates with a given clock.

Times are seconds of a monotonic clock, so that a clock set by a year settles nothing. A candidate
is looked at again when its quiet time has run out; any difference between two looks starts it anew.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from lensd.store.identity import Identity

LOOK_AGAIN_SECONDS = 1.0


class Key(NamedTuple):
    """A path: the root of its watched folder, and what follows."""

    root: str
    path: str


@dataclass(slots=True)
class Candidate:
    first_seen: float
    changed: float  # when the last difference was seen
    look: float  # when to look next
    identity: Identity | None = None
    waiting: str | None = None


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

    def keys(self) -> Iterator[Key]:
        return iter(self._candidates)

    def notice(self, key: Key, now: float) -> bool:
        """An event or a scan named a path. True if it is a new candidate."""
        if key in self._candidates:
            return False
        self._candidates[key] = Candidate(first_seen=now, changed=now, look=now)
        self._put(key, now)
        return True

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
        if candidate.identity != identity:
            candidate.identity, candidate.changed = identity, now
        quiet = now - candidate.changed
        missing = self.quiet_seconds - quiet
        self._schedule(key, candidate, now + (missing if missing > 0 else LOOK_AGAIN_SECONDS))
        return quiet

    def is_quiet(self, quiet: float, *, proven: bool = True) -> bool:
        """Whether so much quiet is enough; without proof that nobody writes, more is needed."""
        return quiet >= (self.quiet_seconds if proven else self.unproven_seconds)

    def wait(self, key: Key, reason: str) -> bool:
        """Note why a quiet path is not taken yet. True if that is news."""
        candidate = self._candidates[key]
        news = candidate.waiting != reason
        candidate.waiting = reason
        return news

    def drop(self, key: Key) -> Candidate:
        """The path is settled, gone or none of lensd's business."""
        return self._candidates.pop(key)

    def _schedule(self, key: Key, candidate: Candidate, look: float) -> None:
        candidate.look = look
        self._put(key, look)

    def _put(self, key: Key, look: float) -> None:
        heapq.heappush(self._queue, (look, key))
