"""A file that is moved just as its job begins: the job goes on under the new name.

Both of lensd's threads follow files; here they do it in the order that is hard to meet by chance.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lensd import __version__, job
from lensd.intake.following import Follower, Found
from lensd.intake.settle import Key
from lensd.store.archive import Archive
from lensd.store.entry import Entry
from lensd.store.identity import Identity
from lensd.store.lease import block_lease_signal
from lensd.store.ledger import Ledger
from lensd.worker import isolated
from lensd.worker.supervisor import Worker
from lensd.workshop import Workshop
from tests.faults.one_job import Folder, Settings
from tests.support.realistic import small_lora


class House:
    """One queued job in a folder that is then renamed."""

    def __init__(self, top: Path) -> None:
        block_lease_signal()
        for name in ("loras/set", "archive", "state"):
            (top / name).mkdir(parents=True)
        self.root = str(top / "loras")
        self.ledger = Ledger(str(top / "state"), __version__)
        self.ledger.baseline(self.root, "loras")
        path = small_lora(top / "loras/set/style.safetensors").path
        self.identity = Identity.of(path.lstat())
        self.ledger.enqueue("job", self.root, "loras", "set/style.safetensors", self.identity)
        self.queued = self.ledger.get("job")
        archive = Archive(str(top / "archive"))
        self.follower = Follower([Folder(self.root)], self.ledger, archive, self._log)
        self.shop = Workshop(
            ledger=self.ledger,
            archive=archive,
            worker=Worker(isolated.command("lensd.compute"), self._log, 60, 60),
            log=self._log,
            device="cpu",
            quiet_seconds=0.1,
            again=lambda _: None,
            moved=self.follower.search,
        )
        self.new = Key(self.root, "moved/style.safetensors")

    def _log(self, event: str, **fields: Any) -> None:
        pass

    def rename(self) -> None:
        Path(self.root, "set").rename(Path(self.root, "moved"))

    def is_next(self) -> bool:
        entry: Entry | None = self.ledger.next_queued()
        return entry is not None and (entry.root, entry.path) == self.new


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def test_a_job_that_has_begun_is_not_moved_beneath_it(house: House) -> None:
    """The main loop saw its row queued, and the runner began it: the runner moves it itself."""
    house.rename()
    house.ledger.update("job", state="running", temporary=".lensd-x")
    assert not house.follower.move(house.queued, house.new)
    assert house.follower.look(house.new, house.identity) is Found.BUSY
    assert job.process(house.queued, Settings(), house.shop, 0.0) is None
    assert house.is_next()


@pytest.mark.parametrize("state", ["running", "staged"])
def test_a_job_that_was_moved_as_it_began_is_queued_again(house: House, state: str) -> None:
    """Its steps, written down after the move, do not leave it under way with nobody at work."""
    house.rename()
    assert house.follower.move(house.queued, house.new)
    house.ledger.update("job", state=state, temporary=".lensd-x")
    assert job.process(house.queued, Settings(), house.shop, 0.0) is None
    assert house.is_next()
