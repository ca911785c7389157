"""The rest of a rebuild, between two jobs: no original is forgotten that could not be read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from lensd.jobs.rebuild_later import RebuildLater
from lensd.logs.events import Event
from lensd.store.archive import Archive
from lensd.store.ledger import Ledger, Outcome
from tests.faults.one_job import Folder

NAMES = ("a.safetensors", "b.safetensors", "c.safetensors")


class Rest:
    """A folder whose three originals are to be hashed later."""

    def __init__(self, top: Path, ledger: Ledger) -> None:
        self.root, self.archive, self.ledger = str(top / "loras"), top / "archive", ledger
        self.events: list[Event] = []
        (top / "loras").mkdir()
        (self.archive / "loras").mkdir(parents=True)
        for name in NAMES:
            (self.archive / "loras" / name).write_bytes(name.encode())
        ledger.state.rebuilding.set((self.root,))
        self.later = RebuildLater(
            [Folder(self.root)], ledger, Archive(str(self.archive)), self.events.append
        )

    def run(self, stop: Callable[[], bool] = lambda: False) -> list[str]:
        """Returns the files whose originals the ledger has then."""
        self.later.run_some(self.root, stop)
        return [e.path for e in self.ledger.files.with_outcome(Outcome.COMPRESSED)]

    def is_noted(self) -> bool:
        """Whether the next start continues."""
        return self.ledger.state.rebuilding.get() == (self.root,)


@pytest.fixture
def rest(tmp_path: Path) -> Iterator[Rest]:
    (tmp_path / "state").mkdir()
    with closing(Ledger(str(tmp_path / "state"), "1")) as ledger:
        yield Rest(tmp_path, ledger)


def test_while_the_archive_is_away_nothing_is_complete(rest: Rest) -> None:
    """An archive that is not there has no originals; when it is back, they are hashed."""
    away = rest.archive.rename(rest.archive.with_name("away"))
    assert rest.run() == []
    assert rest.is_noted()
    away.rename(rest.archive)
    assert rest.run() == [*NAMES]
    assert not rest.is_noted()
    assert len(rest.events) == 1


def test_an_original_that_cannot_be_read_is_left_for_the_next_start(rest: Rest) -> None:
    """Also if a job comes between it and the last original."""
    unreadable = rest.archive / "loras" / NAMES[1]
    looks = iter(range(9))

    def stop() -> bool:
        look = next(looks)
        if look == 1:
            unreadable.unlink()
            unreadable.symlink_to("nowhere")
        return look == 2

    assert rest.run(stop) == [NAMES[0]]
    assert rest.run() == [NAMES[0], NAMES[2]]
    assert rest.is_noted()
    assert rest.later.roots() == []
