"""What a look through a folder takes up: what is not known, and not too much at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue

import pytest

from lensd.errors import StorageError
from lensd.logs.events import Event, FileEvent
from lensd.store.archive import Archive
from lensd.store.identity import Identity
from lensd.store.lease import block_lease_signal
from lensd.store.ledger import Ledger, Outcome
from lensd.watcher.baseline import record_baseline
from lensd.watcher.intake import Intake
from lensd.watcher.intake_recorder import IntakeRecorder
from lensd.watcher.move_tracker import MoveTracker
from lensd.watcher.scan import BATCH
from lensd.watcher.settle import Settler
from tests.faults.one_job import Folder

QUIET = 5.0
MOST = 10
FILES = 2 * BATCH + 10


class App:
    """A folder, and what lensd makes of it at given times."""

    def __init__(self, top: Path) -> None:
        block_lease_signal()
        for name in ("loras/set", "archive", "state"):
            (top / name).mkdir(parents=True)
        self.loras = top / "loras"
        self.folder = Folder(str(self.loras))
        self.ledger = Ledger(str(top / "state"), "1")
        self.said: list[Event] = []
        archive = Archive(str(top / "archive"))
        self.move_tracker = MoveTracker([self.folder], self.ledger, archive, self.said.append)
        self.intake = Intake(
            [self.folder],
            Settler.new(QUIET, QUIET),
            self.ledger,
            archive,
            self.move_tracker,
            IntakeRecorder([self.folder], self.ledger, self.said.append, SimpleQueue()),
            most=MOST,
        )

    def baseline(self) -> tuple[int, int] | None:
        return record_baseline(self.folder, self.ledger, self.move_tracker)

    def events(self) -> Counter[str]:
        return Counter(event.name for event in self.said)

    def write(self, *names: str) -> None:
        """Files that are no safetensors: each has its end when it has settled."""
        for name in names:
            (self.loras / name).write_bytes(f"{name} is a text and no LoRA".encode())

    def settle(self, now: float) -> float:
        """All that is pending, after its quiet time."""
        self.intake.step(now)
        self.intake.step(now + QUIET + 1)
        return now + QUIET + 1


@pytest.fixture
def app(tmp_path: Path) -> Iterator[App]:
    app = App(tmp_path)
    yield app
    app.ledger.close()


def test_a_look_finds_just_what_has_changed(app: App) -> None:
    """Among many files of one folder and of another: new ones, other versions, nothing else."""
    names = [f"{number:04}.safetensors" for number in range(FILES)]
    app.write(*names, *(f"set/{name}" for name in names))
    app.baseline()
    assert app.intake.scan(app.folder, 0.0)
    assert app.intake.pending == 0
    app.write("0003.safetensors", f"set/{names[-1]}", "new.safetensors")
    (app.loras / "0004.safetensors").rename(app.loras / "renamed.safetensors")
    assert app.intake.scan(app.folder, 1.0)
    app.intake.step(1.0)
    pending = {event.path for event in app.said if isinstance(event, FileEvent)}
    changed = "0003.safetensors", f"set/{names[-1]}", "new.safetensors", "renamed.safetensors"
    assert pending == {str(app.loras / name) for name in changed}
    assert app.events() == {"file.moved": 1, "file.detected": 3}
    moved = app.ledger.files.find(str(app.loras), "renamed.safetensors")
    assert moved is not None
    assert moved.outcome == Outcome.BASELINE


def test_a_first_look_leaves_everything(app: App) -> None:
    """In one transaction for a few hundred; counted as one."""
    app.write(*(f"{number}.safetensors" for number in range(FILES)))
    files, size = app.baseline() or (0, 0)
    assert files == FILES
    assert size == sum(path.stat().st_size for path in app.loras.glob("*.safetensors"))
    assert app.baseline() is None
    assert len(list(app.ledger.files.with_outcome(Outcome.BASELINE))) == FILES


def test_a_first_look_that_was_cut_off_is_made_up_for(app: App) -> None:
    """A crash between two batches: what was left is known, the rest comes; nothing comes twice."""
    app.write("a.safetensors", "b.safetensors")
    first = Identity.of((app.loras / "a.safetensors").lstat())
    app.ledger.files.record_baseline(str(app.loras), "loras", [("a.safetensors", first)])
    app.baseline()
    left = [entry.path for entry in app.ledger.files.with_outcome(Outcome.BASELINE)]
    assert left == ["a.safetensors", "b.safetensors"]


def test_very_many_new_files_are_taken_up_in_portions(app: App) -> None:
    """Until all have settled; what waits for somebody takes no place away from the others."""
    app.ledger.roots.add(str(app.loras), "loras")
    app.write(*(f"{number:02}.safetensors" for number in range(2 * MOST + 5)))
    for number in range(MOST):  # the first ones wait for as long as their downloads last
        app.write(f"{number:02}.safetensors.part")
    now, pending = 0.0, []
    while not app.intake.scan(app.folder, now):
        pending.append(app.intake.pending)
        now = app.settle(now)
        assert len(pending) < 10, "it never comes to an end"
    app.settle(now)
    assert pending == [MOST, 2 * MOST]
    assert app.intake.pending == MOST
    assert app.events()["file.skipped"] == MOST + 5


def test_a_file_is_looked_at_again_when_the_ledger_can_be_written(app: App) -> None:
    """A scan does not take up a file that is known as a candidate."""
    app.write("a.safetensors")
    app.baseline()
    (app.loras / "a.safetensors").rename(app.loras / "b.safetensors")
    app.intake.notice(str(app.loras / "b.safetensors"), 0.0)
    app.ledger._database.connection.execute("PRAGMA query_only = ON")
    with pytest.raises(StorageError):
        app.intake.step(0.0)
    app.ledger._database.connection.execute("PRAGMA query_only = OFF")
    app.intake.scan(app.folder, 10.0)
    app.intake.step(10.0)
    assert app.events() == {"file.moved": 1}
    assert app.intake.pending == 0
