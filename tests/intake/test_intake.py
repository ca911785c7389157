"""What a look through a folder takes up: what is not known, and not too much at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lensd.intake.intake import Intake
from lensd.intake.scan import BATCH
from lensd.intake.settle import Settler
from lensd.store.archive import Archive
from lensd.store.identity import Identity
from lensd.store.lease import block_lease_signal
from lensd.store.ledger import Ledger
from tests.faults.one_job import Folder

QUIET = 5.0
MOST = 10
FILES = 2 * BATCH + 10


class House:
    """A folder, and what lensd makes of it at given times."""

    def __init__(self, top: Path) -> None:
        block_lease_signal()
        for name in ("loras/set", "archive", "state"):
            (top / name).mkdir(parents=True)
        self.loras = top / "loras"
        self.folder = Folder(str(self.loras))
        self.ledger = Ledger(str(top / "state"), "1")
        self.said: list[dict[str, Any]] = []
        self.intake = Intake(
            [self.folder],
            Settler.new(QUIET, QUIET),
            self.ledger,
            Archive(str(top / "archive")),
            lambda event, **fields: self.said.append({"event": event, **fields}),
            most=MOST,
        )

    def events(self) -> Counter[str]:
        return Counter(line["event"] for line in self.said)

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
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    yield house
    house.ledger.close()


def test_a_look_finds_just_what_has_changed(house: House) -> None:
    """Among many files of one folder and of another: new ones, other versions, nothing else."""
    names = [f"{number:04}.safetensors" for number in range(FILES)]
    house.write(*names, *(f"set/{name}" for name in names))
    house.intake.baseline(house.folder)
    assert house.intake.scan(house.folder, 0.0)
    assert house.intake.pending == 0
    house.write("0003.safetensors", f"set/{names[-1]}", "new.safetensors")
    (house.loras / "0004.safetensors").rename(house.loras / "renamed.safetensors")
    assert house.intake.scan(house.folder, 1.0)
    house.intake.step(1.0)
    pending = {line["path"] for line in house.said}
    changed = "0003.safetensors", f"set/{names[-1]}", "new.safetensors", "renamed.safetensors"
    assert pending == {str(house.loras / name) for name in changed}
    assert house.events() == {"file.moved": 1, "file.detected": 3}
    moved = house.ledger.find(str(house.loras), "renamed.safetensors")
    assert moved is not None
    assert moved.outcome == "baseline"


def test_a_first_look_leaves_everything(house: House) -> None:
    """In one transaction for a few hundred; counted as one."""
    house.write(*(f"{number}.safetensors" for number in range(FILES)))
    files, size = house.intake.baseline(house.folder) or (0, 0)
    assert files == FILES
    assert size == sum(path.stat().st_size for path in house.loras.glob("*.safetensors"))
    assert house.intake.baseline(house.folder) is None
    assert len(list(house.ledger.with_outcome("baseline"))) == FILES


def test_a_first_look_that_was_cut_off_is_made_up_for(house: House) -> None:
    """A crash between two batches: what was left is known, the rest comes; nothing comes twice."""
    house.write("a.safetensors", "b.safetensors")
    first = Identity.of((house.loras / "a.safetensors").lstat())
    house.ledger.leave(str(house.loras), "loras", [("a.safetensors", first)])
    house.intake.baseline(house.folder)
    left = [entry.path for entry in house.ledger.with_outcome("baseline")]
    assert left == ["a.safetensors", "b.safetensors"]


def test_very_many_new_files_are_taken_up_in_portions(house: House) -> None:
    """Until all have settled; what waits for somebody takes no place away from the others."""
    house.ledger.baseline(str(house.loras), "loras")
    house.write(*(f"{number:02}.safetensors" for number in range(2 * MOST + 5)))
    for number in range(MOST):  # the first ones wait for as long as their downloads last
        house.write(f"{number:02}.safetensors.part")
    now, pending = 0.0, []
    while not house.intake.scan(house.folder, now):
        pending.append(house.intake.pending)
        now = house.settle(now)
        assert len(pending) < 10, "it never comes to an end"
    house.settle(now)
    assert pending == [MOST, 2 * MOST]
    assert house.intake.pending == MOST
    assert house.events()["file.skipped"] == MOST + 5
