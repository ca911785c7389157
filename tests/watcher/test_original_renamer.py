"""Two names of an archived original, after a move that did not come to its last step."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lensd.store.archive import Archive
from lensd.store.identity import Identity
from lensd.store.ledger import Ledger, Outcome
from lensd.store.ledger.entry import Entry
from lensd.store.ledger.notes import RenamingOriginal
from lensd.watcher.original_renamer import OriginalRenamer
from tests.support.protected import protected


class Renaming:
    """An archive with originals of compressed files."""

    def __init__(self, top: Path) -> None:
        self.top = top
        for name in ("archive/loras", "state"):
            (top / name).mkdir(parents=True)
        self.ledger = Ledger(str(top / "state"), "1")
        self.renamer = OriginalRenamer(self.ledger, Archive(str(top / "archive")))

    def path(self, name: str) -> Path:
        return self.top / "archive/loras" / name

    def archive(self, name: str) -> Entry:
        self.path(name).write_bytes(name.encode())
        self.ledger.files.record(
            name,
            "/srv/loras",
            "loras",
            name,
            Identity.of(self.path(name).lstat()),
            outcome=Outcome.COMPRESSED,
            sha256_in=name,
            archive_path=str(self.path(name)),
        )
        return self.ledger.jobs.get(name)

    def names(self) -> list[str]:
        return sorted(path.name for path in self.path("").iterdir())


@pytest.fixture
def renaming(tmp_path: Path) -> Iterator[Renaming]:
    renaming = Renaming(tmp_path)
    yield renaming
    renaming.ledger.close()


def test_an_original_gets_the_new_name_first(renaming: Renaming) -> None:
    """And loses the old one last; the ledger is true in between, and the note is gone then."""
    entry = renaming.archive("a")
    old = renaming.renamer.add_new_name(entry, "loras", "b")
    assert old == str(renaming.path("a"))
    assert renaming.names() == ["a", "b"]
    assert renaming.ledger.jobs.get("a").archive_path == str(renaming.path("b"))
    renaming.renamer.drop_old_name(old)
    assert renaming.names() == ["b"]
    assert renaming.ledger.state.renaming_original.get() is None


@pytest.mark.parametrize("recorded", [True, False])
def test_after_a_crash_one_name_is_left(renaming: Renaming, *, recorded: bool) -> None:
    """The one that the ledger has."""
    entry = renaming.archive("a")
    old, new = renaming.path("a"), renaming.path("b")
    if recorded:
        renaming.renamer.add_new_name(entry, "loras", "b")
    else:
        os.link(old, new)
        renaming.ledger.state.renaming_original.set(RenamingOriginal(str(old), str(new)))
    renaming.renamer.finish_interrupted()
    assert renaming.names() == [new.name if recorded else old.name]
    assert renaming.ledger.state.renaming_original.get() is None


def test_a_failed_move_is_finished_before_the_next_one(renaming: Renaming) -> None:
    """The ledger's disk was full at its last step, and lensd goes on: the next move must not
    overwrite the note.
    """
    first, second = renaming.archive("a"), renaming.archive("c")
    renaming.renamer.add_new_name(first, "loras", "b")
    old = renaming.renamer.add_new_name(second, "loras", "d")
    renaming.renamer.drop_old_name(old)
    assert renaming.names() == ["b", "d"]


def test_while_the_archive_is_away_the_note_stays(renaming: Renaming) -> None:
    """A start without the archive's disk; the disk has no hard links, so the ledger is behind."""
    renaming.archive("a")
    old, new = renaming.path("a"), renaming.path("b")
    renaming.ledger.state.renaming_original.set(RenamingOriginal(str(old), str(new)))
    old.rename(new)
    away = (renaming.top / "archive").rename(renaming.top / "away")
    renaming.renamer.finish_interrupted()
    away.rename(renaming.top / "archive")
    renaming.renamer.finish_interrupted()
    assert renaming.ledger.jobs.get("a").archive_path == str(new)
    assert renaming.ledger.state.renaming_original.get() is None


def test_an_archive_that_cannot_be_written_ends_no_start(renaming: Renaming) -> None:
    """The two names stay until it can be."""
    entry = renaming.archive("a")
    renaming.renamer.add_new_name(entry, "loras", "b")
    with protected(renaming.path(""), "i"):
        renaming.renamer.finish_interrupted()
        assert renaming.names() == ["a", "b"]
    renaming.renamer.finish_interrupted()
    assert renaming.names() == ["b"]
