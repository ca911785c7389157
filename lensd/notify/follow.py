"""Look for news and send them: at most one message in `notify.interval_seconds`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence

from lensd.config.model import Config
from lensd.errors import LensdError
from lensd.notify.cursor import Cursor, locked
from lensd.notify.message import compose
from lensd.notify.news import News, collect
from lensd.notify.send import Recipient
from lensd.store.ledger import LEDGER

LOOK_SECONDS = 5.0
GATHER_SECONDS = 30.0  # from the first of some news to their message
LONGEST_WAIT = 3600.0  # after messages that no recipient took

Say = Callable[[str], None]


class Follower:
    """Several processes may follow one ledger: each message is sent by the first that can.

    `since`: what the first of all looks begins with, in seconds since 1970; else its own time.
    """

    def __init__(
        self,
        config: Config,
        recipients: Sequence[Recipient],
        say: Say,
        since: float | None = None,
    ) -> None:
        self._config, self._recipients, self._say = config, recipients, say
        self._interval = config.notify.interval_seconds
        self._since = since
        self._first: float | None = None  # monotonic: when these news were first seen
        self._failures = 0
        self._not_before = 0.0
        self._seen: object = None
        self._unwritten: Cursor | None = None  # after a message; a full disk did not take it

    def follow(self, wait: Callable[[float], bool]) -> None:
        """Go on until `wait(seconds)` returns True; then send what is left."""
        while not wait(min(LOOK_SECONDS, self._interval)):
            if self._has_changed() or self._first is not None:
                self._attempt()
        self._attempt(hurry=True)

    def send_now(self) -> bool:
        """Send what is new. Returns False if no recipient took it. Raises StorageError."""
        return self._look(hurry=True)

    def _attempt(self, *, hurry: bool = False) -> None:
        try:
            self._look(hurry=hurry)
        except LensdError as error:  # no ledger yet, or a disk that is away
            if self._failures == 0:
                self._say(str(error))
            self._postpone()

    def _look(self, *, hurry: bool) -> bool:
        if not hurry and time.monotonic() < self._not_before:
            return True
        with locked(self._config.state.path) as file:
            cursor, now = self._unwritten or file.read(self._since), time.time()
            news = collect(self._config, cursor, now)
            if news and not hurry and not self._is_due(cursor, now):
                return True
            if news and not self._send(news):
                self._postpone()
                return False
            self._first = None
            if news:
                self._unwritten = news.advance(cursor, now)
            if self._unwritten is not None:
                file.write(self._unwritten)
                self._unwritten, self._failures = None, 0
        return True

    def _is_due(self, cursor: Cursor, now: float) -> bool:
        if self._first is None:
            self._first = time.monotonic()
        gathered = time.monotonic() - self._first >= min(GATHER_SECONDS, self._interval)
        return gathered and now - cursor.sent >= self._interval

    def _send(self, news: News) -> bool:
        """Whether a recipient took it. Those that did not are named; they do not get it again."""
        message = compose(news)
        faults = {r.name: r.deliver(message) for r in self._recipients}
        if self._failures == 0:
            for name, fault in faults.items():
                if fault is not None:
                    self._say(f"{name}: {fault}")
        return None in faults.values()

    def _postpone(self) -> None:
        self._failures += 1
        wait = min(LONGEST_WAIT, self._interval * 2.0 ** min(self._failures - 1, 20))
        self._not_before = time.monotonic() + wait

    def _has_changed(self) -> bool:
        """Whether the ledger was written since the last look, or a weekly summary may be due."""
        if "weekly" in self._config.notify.on or self._failures:
            return True
        seen = [_stamp(os.path.join(self._config.state.path, f"{LEDGER}{s}")) for s in ("", "-wal")]
        changed, self._seen = seen != self._seen, seen
        return changed


def _stamp(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size
