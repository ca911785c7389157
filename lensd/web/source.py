"""What the pages show: the ledger, the catalog of its files, and whether a daemon runs."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from lensd.config.model import Config
from lensd.daemon.control import send_request
from lensd.daemon.control_messages import Message, Step, StepRequest
from lensd.errors import LensdError, LockedError, StorageError
from lensd.store.ledger import Ledger
from lensd.store.ledger.catalog import Catalog
from lensd.store.locks import holder
from lensd.text import printable
from lensd.web.shown import Shortener

LOCK_SECONDS = 2.0  # between two looks at the lock, which a daemon that starts may want


@dataclass(frozen=True, slots=True)
class Daemon:
    """`text`: what it is, for people. `runs`: it takes requests. `steps`: of its running jobs."""

    runs: bool
    text: str
    steps: Mapping[str, Step] = field(default_factory=dict)  # by job


class Source:
    """Opens the ledger when there is one, and again when it was replaced. From any thread."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.ledger: Ledger | None = None
        self.catalog: Catalog | None = None
        self.missing = "lensd has not run with this configuration yet"
        self.version = 0  # grows with each change of the ledger
        self._lock = threading.Lock()
        self._looked = -LOCK_SECONDS
        self._held: int | None = None

    def refresh(self) -> bool:
        """Take over what changed; whether something did."""
        with self._lock:
            try:
                self._require_ledger()
                changed = self.catalog is not None and self.catalog.refresh()
            except StorageError as fault:
                why = Shortener(self.config).shorten(str(fault))
                changed = self.ledger is not None or self.missing != why
                self.missing = why
                self._close()
            self.version += changed
            return changed

    def _require_ledger(self) -> None:
        if self.ledger is not None and not self._is_current(self.ledger):
            self._close()
        if self.ledger is None:
            self._open()
            self.version += 1

    def _is_current(self, ledger: Ledger) -> bool:
        """False: it was deleted or replaced, or it changes now although it was opened as one that
        does not.
        """
        try:
            ledger.require_in_place()
        except StorageError:  # it says what a daemon does then
            return False
        return not (ledger.is_unchanging and self._is_used())

    def _open(self) -> None:
        folder = self.config.state.path
        try:
            self.ledger = Ledger(folder, version="", readonly=True)
            self.catalog = Catalog(folder, unchanging=self.ledger.is_unchanging)
        except StorageError:
            self._close()
            raise

    def _is_used(self) -> bool:
        """Whether a process may write to the ledger now."""
        return holder(self.config.state.path) is not None

    def _close(self) -> None:
        if self.catalog is not None:
            self.catalog.close()
        if self.ledger is not None:
            self.ledger.close()
        self.ledger = self.catalog = None

    def ask_daemon(self) -> Daemon:
        """Whether a daemon runs, and how far its jobs are."""
        steps: dict[str, Step] = {}

        def receive(message: Message) -> None:
            if isinstance(message, Step):
                steps[message.job_id] = message

        try:
            send_request(self.config.state.path, StepRequest(), receive, patience=0.0)
        except LockedError:
            return self._describe_without_socket()
        except (LensdError, OSError) as error:
            return Daemon(runs=False, text=printable(str(error)))
        return Daemon(runs=True, text="running", steps=steps)

    def _describe_without_socket(self) -> Daemon:
        now = time.monotonic()
        if now - self._looked >= LOCK_SECONDS:
            self._looked = now
            with contextlib.suppress(OSError):
                self._held = holder(self.config.state.path)
        if self._held is None:
            return Daemon(runs=False, text="not running")
        return Daemon(runs=False, text=f"starting, or busy with a command (process {self._held})")
