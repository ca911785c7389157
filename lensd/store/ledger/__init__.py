"""The ledger: every file version that lensd saw, its state and its outcome, in SQLite.

A row is one version of one file: (root, path, identity). Its `state` says what a restart has to
do, so a state is written before the step that it names:

    queued      nothing has happened yet
    running     the temporary may exist, half-written
    staged      the temporary is complete; its sha256 is known
    publishing  the original is in the archive; the two names may or may not be exchanged
    published   the output is in place; the temporary name may still hold the original
    done        finished; `outcome` says how

Outcomes: baseline (left alone), compressed, replaced (compressed once; a newer file took the name),
restored, analyzed, kept, skipped, failed, quarantined, superseded (another version came first).
"""

from __future__ import annotations

from contextlib import AbstractContextManager

from lensd.store.ledger.database import LEDGER, Database
from lensd.store.ledger.entry import Entry
from lensd.store.ledger.files import Files
from lensd.store.ledger.jobs import Jobs
from lensd.store.ledger.originals import Originals
from lensd.store.ledger.roots import RootIdentity, Roots
from lensd.store.ledger.rows import Rows
from lensd.store.ledger.state import State

__all__ = ["LEDGER", "Entry", "Ledger", "RootIdentity"]


class Ledger:
    """The ledger in a state folder: its parts share one connection to the database.

    `version` is lensd's; finished rows carry it. Without the lock of the state folder, open it
    `readonly`. Raises StorageError when it cannot be opened. `damaged`: where a damaged database
    was moved before a new one was made, else None.
    """

    def __init__(self, folder: str, version: str, *, readonly: bool = False) -> None:
        self._database = Database(folder, readonly=readonly)
        self.readonly = readonly
        self.damaged = self._database.damaged
        rows = Rows(self._database, version)
        self.jobs = Jobs(self._database, rows)
        self.files = Files(self._database, rows)
        self.originals = Originals(self._database, rows)
        self.roots = Roots(self._database)
        self.state = State(self._database)

    def together(self) -> AbstractContextManager[None]:
        """One commit for all changes within: all of them or, after an exception, none.

        Other threads wait meanwhile. Do not put a step inside that relies on a change being
        durable.
        """
        return self._database.together()

    def close(self) -> None:
        self._database.close()
