"""A start that is killed while it makes, converts or moves aside the ledger: the next one goes on.

Between two of the calls at which it is killed nothing changes on the disk.
"""

from __future__ import annotations

import shutil
import signal
import sqlite3
import tarfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from lensd.store.ledger import LEDGER, Ledger
from lensd.store.ledger.schema import SCHEMA_VERSION
from tests.faults import one_start
from tests.faults.scene import Server
from tests.support import strace
from tests.support.before import FOLDER
from tests.support.marks import needs_program
from tests.support.strace import Call, Tracer
from tests.support.suites import sample

pytestmark = [pytest.mark.slow, pytest.mark.fault("ledger"), needs_program("strace")]

SCHEMA_1 = Path(__file__).parents[1] / "store/ledger/schema_1.sql"
ROWS = "SELECT id, job_id, root, path, state, outcome, sha256_in FROM files ORDER BY id"

Rows = list[tuple[object, ...]]


def _nothing(state: Path) -> None:
    """The first start."""


def _empty(state: Path) -> None:
    (state / LEDGER).touch()


def _schema_1(state: Path) -> None:
    with closing(sqlite3.connect(state / LEDGER)) as db:
        db.executescript(SCHEMA_1.read_text())


def _schema_1_in_use(state: Path) -> None:
    """A killed daemon left its write-ahead log."""
    made = state / "made"
    made.mkdir()
    with closing(sqlite3.connect(made / LEDGER)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.executescript(SCHEMA_1.read_text())
        for path in (made / LEDGER, made / f"{LEDGER}-wal"):
            shutil.copy(path, state)
    shutil.rmtree(made)


def _before(state: Path) -> None:
    """The ledger of a killed daemon of lensd 0.1.0."""
    with tarfile.open(FOLDER / "files.tar.xz") as tar:
        for suffix in ("", "-wal"):
            member = tar.extractfile(f"all/state/{LEDGER}{suffix}")
            assert member is not None
            (state / f"{LEDGER}{suffix}").write_bytes(member.read())


def _damaged(state: Path) -> None:
    """The killed daemon's write-ahead log has newer rows than the database."""
    _before(state)
    (state / LEDGER).write_bytes(b"no database at all")


STARTS: dict[str, Callable[[Path], None]] = {
    "no ledger": _nothing,
    "an empty file": _empty,
    "schema 1": _schema_1,
    "schema 1, after a kill": _schema_1_in_use,
    "lensd 0.1.0, after a kill": _before,
    "damaged": _damaged,
}


class Place:
    """A state folder, and the process that opens its ledger again and again."""

    def __init__(self, top: Path, prepare: Callable[[Path], None]) -> None:
        self.state = top / "state"
        self._trace = top / "trace"
        self._prepare = prepare
        self._server = Server(top / "stderr", one_start.__name__)

    def fresh(self) -> None:
        shutil.rmtree(self.state, ignore_errors=True)
        self.state.mkdir()
        self._prepare(self.state)

    def start(self, *does: str) -> tuple[int, str]:
        """One start under strace. Its exit code, below 0 for a signal, and its message."""
        names = sorted(strace.CHANGING)
        return self._server.run(
            {"state": str(self.state)},
            lambda pid: Tracer(pid, self._trace, names, does),
            None,
            signal.SIGCONT,
        )

    def calls(self) -> list[Call]:
        """The calls of one start that nothing disturbs."""
        self.fresh()
        assert self.start() == (0, "")
        return strace.calls(self._trace)

    def close(self) -> None:
        self._server.close()

    def rows(self) -> Rows:
        with closing(sqlite3.connect(self.state / LEDGER)) as db:
            assert db.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            return [tuple(row) for row in db.execute(ROWS)]

    def kept_bytes(self) -> set[bytes]:
        """What lies aside."""
        return {path.read_bytes() for path in self.state.glob("*.damaged-*")} - {b""}


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[[Callable[[Path], None]], Place]]:
    places = []

    def made(prepare: Callable[[Path], None]) -> Place:
        places.append(Place(tmp_path, prepare))
        return places[-1]

    yield made
    for place in places:
        place.close()


@pytest.mark.parametrize("kind", STARTS)
def test_killed_at_each_call_of_a_start(
    make: Callable[[Callable[[Path], None]], Place], tell: Callable[[str], None], kind: str
) -> None:
    """The next start has the same rows as one that was never killed, and reports no damage."""
    place = make(STARTS[kind])
    calls = place.calls()
    expected, aside = place.rows(), place.kept_bytes()
    cases = sample(calls, 24)
    wrong = []
    for call in cases:
        place.fresh()
        killed, _ = place.start(strace.killed_at(call))
        assert killed == -9, call
        code, message = place.start()
        if code or place.rows() != expected or place.kept_bytes() != aside:
            wrong.append(f"{call}: {code} {message}")
        elif not aside:
            with closing(Ledger(str(place.state), "1")) as ledger:
                assert ledger.damaged is None
    assert wrong == []
    tell(f"{kind}: a start killed at {len(cases)} of its {len(calls)} calls")
