"""A file that is moved just as its job begins: the job goes on under the new name.

Both of lensd's threads follow files; here they do it in the order that is hard to meet by chance.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lensd import __version__
from lensd.daemon.inbox import Inbox
from lensd.jobs import compress
from lensd.jobs.context import JobContext
from lensd.jobs.filesystems import Filesystems
from lensd.logs.events import Event
from lensd.store.archive import Archive
from lensd.store.identity import Identity
from lensd.store.lease import block_lease_signal
from lensd.store.ledger import JobState, Ledger
from lensd.store.ledger.entry import Entry
from lensd.watcher.move_tracker import Found, MoveTracker
from lensd.watcher.root_states import RootStates
from lensd.watcher.settle import Key
from lensd.worker import isolated
from lensd.worker.supervisor import Worker
from tests.faults.one_job import Folder, Settings
from tests.support.jobs import finish
from tests.support.realistic import small_lora


class App:
    """One queued job in a folder that is then renamed."""

    def __init__(self, top: Path) -> None:
        block_lease_signal()
        for name in ("loras/set", "archive", "state"):
            (top / name).mkdir(parents=True)
        self.root = str(top / "loras")
        self.ledger = Ledger(str(top / "state"), __version__)
        self.ledger.roots.add(self.root, "loras")
        path = small_lora(top / "loras/set/style.safetensors").path
        self.identity = Identity.of(path.lstat())
        self.ledger.jobs.enqueue("job", self.root, "loras", "set/style.safetensors", self.identity)
        self.queued = self.ledger.jobs.get("job")
        archive = Archive(str(top / "archive"))
        self.move_tracker = MoveTracker([Folder(self.root)], self.ledger, archive, self._log)
        inbox = Inbox()
        self.context = JobContext(
            ledger=self.ledger,
            archive=archive,
            log=self._log,
            device="cpu",
            quiet_seconds=0.1,
            hints=inbox,
            root_states=RootStates([], inbox),
            move_tracker=self.move_tracker,
            filesystems=Filesystems(self.ledger),
        )
        self.new = Key(self.root, "moved/style.safetensors")

    def _log(self, event: Event) -> None:
        pass

    def rename(self) -> None:
        Path(self.root, "set").rename(Path(self.root, "moved"))

    def run(self) -> Event | None:
        worker = Worker(isolated.command("lensd.engine"), self._log, 60, 60)
        return finish(compress.process(self.queued, Settings(), self.context, 0.0), worker)

    def is_next(self) -> bool:
        entry: Entry | None = self.ledger.jobs.next_queued()
        return entry is not None and (entry.root, entry.path) == self.new


@pytest.fixture
def app(tmp_path: Path) -> Iterator[App]:
    app = App(tmp_path)
    yield app
    app.ledger.close()


def test_a_job_that_has_begun_is_not_moved_beneath_it(app: App) -> None:
    """The main loop saw its row queued, and the runner began it: the runner moves it itself."""
    app.rename()
    app.ledger.jobs.update("job", state=JobState.RUNNING, temporary=".lensd-x")
    assert not app.move_tracker.move(app.queued, app.new)
    assert app.move_tracker.follow_file(app.new, app.identity) is Found.BUSY
    assert app.run() is None
    assert app.is_next()


@pytest.mark.parametrize("state", [JobState.RUNNING, JobState.STAGED])
def test_a_job_that_was_moved_as_it_began_is_queued_again(app: App, state: JobState) -> None:
    """Its steps, written down after the move, do not leave it under way with nobody at work."""
    app.rename()
    assert app.move_tracker.move(app.queued, app.new)
    app.ledger.jobs.update("job", state=state, temporary=".lensd-x")
    assert app.run() is None
    assert app.is_next()
