"""Seconds that count only while lensd runs: neither a jump of a clock nor a long stop counts.

The kernel's monotonic clock does not jump, but libfaketime's may, and a process may be stopped for
hours. In both cases lensd did not look at the files, so the time is no quiet time.
"""

from __future__ import annotations

JUMP_SECONDS = 60.0


class SteadyClock:
    """Turns readings of a monotonic clock into seconds without the gaps between them."""

    def __init__(self) -> None:
        self._last: float | None = None
        self._skipped = 0.0

    def at(self, now: float) -> float:
        """The steady time of a reading. Call it at least every JUMP_SECONDS."""
        passed = 0.0 if self._last is None else now - self._last
        if not 0 <= passed <= JUMP_SECONDS:
            self._skipped += passed
        self._last = now
        return now - self._skipped

    def reading(self, steady: float) -> float:
        """What the clock shows at a steady time."""
        return steady + self._skipped
