"""What happened since the last message, from the ledger. Changes nothing."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass, field

from lensd import __version__
from lensd.config.model import Config
from lensd.errors import DegradedReason, Outcome
from lensd.notify.cursor import Cursor
from lensd.report.documents import Report
from lensd.report.from_ledger import history
from lensd.report.local_zone import LOCAL
from lensd.report.period import Period
from lensd.report.summary import summarize
from lensd.store.ledger import Ledger
from lensd.store.locks import holder
from lensd.text import visible

WEEK = 7 * 86400.0
_FULL = (DegradedReason.NO_SPACE, DegradedReason.READ_ONLY)


@dataclass(frozen=True, slots=True)
class Ended:
    """A file that failed or was quarantined."""

    outcome: str
    path: str
    message: str
    when: float


@dataclass(slots=True)
class News:
    """What a message is about. `problems`: all that last now; `fresh`: those not reported yet."""

    ended: list[Ended] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)  # key -> a sentence
    fresh: list[str] = field(default_factory=list)
    solved: list[str] = field(default_factory=list)
    week: Report | None = None

    def __bool__(self) -> bool:
        return bool(self.ended or self.fresh or self.solved or self.week)

    def advance(self, cursor: Cursor, now: float) -> Cursor:
        """Return the cursor after these news were sent."""
        return Cursor(
            until=max([cursor.until, *(e.when for e in self.ended)]),
            problems=list(self.problems),
            weekly=cursor.weekly if self.week is None else now,
            sent=now,
        )


def collect(config: Config, cursor: Cursor, now: float) -> News:
    """Read the ledger. Raises StorageError if there is none yet."""
    news, wanted = News(), config.notify.on
    with Ledger.read_only(config.state.path) as ledger:
        outcomes = [o for o in (Outcome.FAILED, Outcome.QUARANTINED) if o in wanted]
        if outcomes:
            news.ended = [
                Ended(e.outcome or "", visible(e.full_path), e.message or "", e.updated)
                for e in ledger.files.with_outcome(*outcomes)
                if e.updated > cursor.until
            ]
        if holder(config.state.path) is None:  # the notes of a daemon that is dead say nothing
            news.problems = dict.fromkeys(cursor.problems, "")
        else:
            news.problems = {k: text for k, kind, text in _find_problems(ledger) if kind in wanted}
        news.fresh = [t for key, t in news.problems.items() if key not in cursor.problems]
        news.solved = [key for key in cursor.problems if key not in news.problems]
        if "weekly" in wanted and now >= cursor.weekly + WEEK:
            moment = dt.datetime.fromtimestamp(now, LOCAL)
            period = Period(since=now - WEEK, until=now)
            news.week = summarize(history(ledger, config.state.path), period, moment, __version__)
    return news


def _find_problems(ledger: Ledger) -> Iterator[tuple[str, str, str]]:
    """Yield (key, occasion, sentence) of each problem that lasts."""
    for root in ledger.state.degraded.get() or ():
        kind = "disk_full" if root.reason in _FULL else "degraded"
        yield f"{visible(root.path)}: {root.reason}", kind, f"{visible(root.path)}: {root.message}"
    waiting = ledger.state.disk_backoff.get()
    if waiting is not None:
        yield "disk", "disk_full", f"All jobs that need a disk wait: {visible(waiting)}"
