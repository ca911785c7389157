"""Files that a person deleted are reported once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from lensd.jobs.gone_files import TOGETHER, GoneFiles
from lensd.logs.events import Event, FileDeleted
from lensd.store.archive import Archive
from lensd.store.identity import Identity
from lensd.store.ledger import Ledger, Outcome


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    for name in ("loras", "archive/loras", "state"):
        (tmp_path / name).mkdir(parents=True)
    with closing(Ledger(str(tmp_path / "state"), "1")) as ledger:
        yield ledger


def test_an_original_that_cannot_be_looked_at_is_not_deleted(
    tmp_path: Path, ledger: Ledger
) -> None:
    """The disk reports an error (here for the length of a name); the look goes on."""
    path = tmp_path / "loras/a.safetensors"
    path.write_bytes(b"output")
    events: list[Event] = []
    for name, folder in (("far", "x" * 300), ("gone", "none")):
        ledger.files.record(
            name, str(path.parent), "loras", path.name, Identity.of(path.stat()),
            outcome=Outcome.COMPRESSED, sha256_in="0" * 64,
            archive_path=str(tmp_path / "archive/loras" / folder / path.name),
        )  # fmt: skip
    GoneFiles(ledger, Archive(str(tmp_path / "archive")), events.append).look()
    assert ledger.gone.known() == {("gone", "original")}
    assert len(events) == 1


def test_a_deleted_file_stays_deleted_while_its_disk_is_away(
    tmp_path: Path, ledger: Ledger
) -> None:
    """It is reported once, and it leaves the totals until it is there again."""
    root = tmp_path / "loras"
    for name in ("a.safetensors", "b.safetensors"):
        (root / name).write_bytes(b"output")
    found = Identity.of((root / "a.safetensors").stat())
    events: list[Event] = []
    ledger.files.record(
        "job", str(root), "loras", "a.safetensors", found, outcome=Outcome.COMPRESSED
    )
    gone = GoneFiles(ledger, Archive(str(tmp_path / "archive")), events.append)
    (root / "a.safetensors").unlink()
    gone.look()
    assert ledger.gone.known() == {("job", "file")}
    away = root.rename(tmp_path / "away")
    gone.look()
    assert ledger.gone.known() == {("job", "file")}
    away.rename(root)
    gone.look()
    assert [event.name for event in events] == ["file.deleted"]
    (root / "a.safetensors").write_bytes(b"output")
    gone.look()
    assert ledger.gone.known() == set()


def test_each_of_many_deleted_files_is_reported_once(tmp_path: Path, ledger: Ledger) -> None:
    """Also where the look was ended early, in the middle of what one commit records."""
    root, count = tmp_path / "loras", 2 * TOGETHER + 3
    (root / "other").touch()  # an empty folder may be that of a disk which is away
    found = Identity.of(root.stat())
    with ledger.together():
        for at in range(count):
            ledger.files.record(
                f"job {at}", str(root), "loras", f"{at}.safetensors", found,
                outcome=Outcome.COMPRESSED,
            )  # fmt: skip
    events: list[Event] = []
    gone = GoneFiles(ledger, Archive(str(tmp_path / "archive")), events.append)
    stops = iter([False] * (TOGETHER + 5))
    assert not gone.look(lambda: next(stops, True))
    assert len(ledger.gone.known()) == len(events) == TOGETHER + 5
    assert gone.look()
    assert gone.look()
    paths = {event.path for event in events if isinstance(event, FileDeleted)}
    assert len(ledger.gone.known()) == len(events) == len(paths) == count


@pytest.mark.parametrize(
    "outcome", [Outcome.FAILED, Outcome.QUARANTINED, Outcome.SKIPPED, Outcome.KEPT]
)
def test_a_deleted_file_that_was_not_compressed(
    tmp_path: Path, ledger: Ledger, outcome: Outcome
) -> None:
    """As its message advises. It leaves lists and totals; an older version of it has no line."""
    root, name = tmp_path / "loras", "bad.safetensors"
    (root / "other.safetensors").write_bytes(b"other")
    for job, data in (("old", b"one"), ("new", b"others")):
        (root / name).write_bytes(data)
        ledger.files.record(
            job, str(root), "loras", name, Identity.of((root / name).stat()), outcome=outcome
        )
    events: list[Event] = []
    gone = GoneFiles(ledger, Archive(str(tmp_path / "archive")), events.append)
    gone.look()
    assert [e.job_id for e in ledger.files.latest_with_outcome(outcome)] == ["new"]
    away = (root / name).rename(tmp_path / "away")
    gone.look()
    [event] = events
    assert isinstance(event, FileDeleted)
    assert (event.job_id, event.what, event.bytes) == ("new", "file", 6)
    assert "was not compressed" in event.message
    assert ledger.files.latest_with_outcome(outcome) == []
    assert ledger.files.totals().outcomes == {}
    away.rename(root / name)
    gone.look()
    assert [e.job_id for e in ledger.files.latest_with_outcome(outcome)] == ["new"]
