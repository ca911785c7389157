"""The ledger: every file version that lensd saw, its state and its outcome, in SQLite.

A row is one version of one file: (root, path, identity). Its `state` says what a restart has to
do, so a state is written before the step that it names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from typing import Self

from lensd.store.ledger.database import LEDGER, Database, exists
from lensd.store.ledger.entry import Entry
from lensd.store.ledger.files import Files
from lensd.store.ledger.gone import Gone
from lensd.store.ledger.jobs import Jobs
from lensd.store.ledger.observed import ObservedTime
from lensd.store.ledger.originals import Originals
from lensd.store.ledger.roots import RootIdentity, Roots
from lensd.store.ledger.rows import Columns, Rows
from lensd.store.ledger.state import State
from lensd.store.ledger.states import JobState, Outcome

__all__ = ["LEDGER", "Columns", "Entry", "JobState", "Ledger", "Outcome", "RootIdentity", "exists"]


class Ledger:
    """The ledger in a state folder: its parts share one connection to the database.

    `version` is lensd's; finished rows carry it. Without the lock of the state folder, open it
    `readonly`. Raises StorageError when it cannot be opened. `damaged`: where a damaged database
    was moved before a new one was made, else None.
    """

    def __init__(self, folder: str, version: str, *, readonly: bool = False) -> None:
        self._database = Database(folder, readonly=readonly)
        self.folder = folder
        self.readonly = readonly
        self.damaged = self._database.damaged
        rows = self._rows = Rows(self._database, version)
        self.jobs = Jobs(self._database, rows)
        self.gone = Gone(self._database)
        self.files = Files(self._database, rows, self.gone)
        self.originals = Originals(self._database, rows)
        self.roots = Roots(self._database)
        self.state = State(self._database)
        self.observed = ObservedTime(self._database)

    @classmethod
    @contextmanager
    def read_only(cls, folder: str) -> Iterator[Self]:
        """The ledger of a daemon that may be running; closed at the end of the block.

        Raises StorageError when there is none, or it cannot be opened.
        """
        with closing(cls(folder, version="", readonly=True)) as ledger:
            yield ledger

    @property
    def is_unchanging(self) -> bool:
        """Whether it is read from a folder that takes no files, as no process writes to it."""
        return self._database.is_unchanging

    def together(self) -> AbstractContextManager[None]:
        """One commit for all changes within: all of them or, after an exception, none.

        Other threads wait meanwhile. Do not put a step inside that relies on a change being
        durable.
        """
        return self._database.together()

    def snapshot(self) -> AbstractContextManager[None]:
        """All reads within see the ledger as it was at one moment.

        Other threads wait meanwhile. Change nothing inside.
        """
        return self._database.snapshot()

    def require_in_place(self) -> None:
        """Raises StorageError when the open ledger was deleted, moved or replaced."""
        self._database.require_in_place()

    def on_damaged_row(self, report: Callable[[int, ValueError], None]) -> None:
        """Let `report(id, error)` have each damaged row once, in the thread that reads it."""
        self._rows.report_damaged = report

    def close(self) -> None:
        self._database.close()
