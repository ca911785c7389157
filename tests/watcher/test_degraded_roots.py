"""Which folders `lensd status` shows as degraded."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from lensd.errors import StorageError
from lensd.store.ledger import Ledger
from lensd.store.ledger.notes import DegradedRoot
from lensd.watcher.degraded_roots import DegradedRoots

NOTE = DegradedRoot("loras", "/srv/loras", "unreachable", "it is gone", 1.0)


def test_what_the_ledger_refused_is_written_later(tmp_path: Path) -> None:
    """Its disk was full when the folder came back; the next check says the same again."""
    with closing(Ledger(str(tmp_path), "1")) as ledger:
        degraded = DegradedRoots(ledger)
        degraded.set({"/srv/loras": NOTE})
        assert ledger.state.degraded.get() == (NOTE,)
        ledger._database.connection.execute("PRAGMA query_only = ON")
        with pytest.raises(StorageError):
            degraded.set({"/srv/loras": None})
        assert degraded.names == frozenset()
        ledger._database.connection.execute("PRAGMA query_only = OFF")
        degraded.set({"/srv/loras": None})
        assert ledger.state.degraded.get() is None


def test_the_notes_of_a_killed_lensd_end_with_the_first_check(tmp_path: Path) -> None:
    """The folder came back before the next start."""
    with closing(Ledger(str(tmp_path), "1")) as ledger:
        ledger.state.degraded.set((NOTE,))
        DegradedRoots(ledger).set({"/srv/loras": None})
        assert ledger.state.degraded.get() is None
