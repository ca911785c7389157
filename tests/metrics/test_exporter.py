"""lensd.metrics.exporter: when the textfile is written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lensd.logs.events import (
    DaemonDegraded,
    DaemonPaused,
    DaemonRecovered,
    Event,
    FileDetected,
    FileRestored,
)
from lensd.metrics.exporter import Exporter
from lensd.store.ledger import Ledger
from tests.support.home_server import wait_until
from tests.support.limits import PATIENCE
from tests.support.prometheus import Textfile

PATH = "/srv/loras/a.safetensors"
RESTORED = FileRestored(
    path=PATH, watch="loras", job_id="a", sha256="0" * 64, method="move", bytes=9
)


class Scene:
    """An exporter of an empty ledger, and the events that it logged."""

    def __init__(self, folder: Path, ledger: Ledger) -> None:
        self.path = folder / "metrics/lensd.prom"
        self.path.parent.mkdir()
        self.logged: list[Event] = []
        self._ledger = ledger

    def exporter(self, *, heartbeat: float, gather: float = 0.0) -> Exporter:
        return Exporter(
            str(self.path),
            "0.1.0",
            self._ledger,
            ("loras", "flux"),
            lambda: ["flux"],
            self.logged.append,
            heartbeat=heartbeat,
            gather=gather,
        )

    @property
    def inode(self) -> int:
        """The inode of the textfile, which each write changes."""
        return self.path.stat().st_ino

    @property
    def restored(self) -> float:
        return Textfile(self.path).get("lensd_files_total", watch="loras", outcome="restored")


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    (tmp_path / "state").mkdir()
    ledger = Ledger(str(tmp_path / "state"), "0.1.0")
    yield Scene(tmp_path, ledger)
    ledger.close()


def test_it_is_written_at_the_start_and_after_an_outcome(scene: Scene) -> None:
    """Each outcome is 0 before its first file; an event that is no outcome causes no write."""
    exporter = scene.exporter(heartbeat=60)
    exporter.start()
    wait_until(scene.path.exists, "the start")
    assert scene.restored == 0
    assert "lensd_files_total" in Textfile(scene.path).names
    first = scene.inode
    exporter.note(FileDetected(path=PATH, watch="loras", job_id=None, bytes=9))
    exporter.note(DaemonPaused(paths=[]))
    assert scene.inode == first
    exporter.note(RESTORED)
    wait_until(lambda: scene.restored == 1, "the outcome")
    found = Textfile(scene.path)
    assert found.get("lensd_watch_degraded", watch="flux") == 1
    assert found.get("lensd_watch_degraded", watch="loras") == 0
    assert "lensd_watch_degraded" in found.names
    exporter.finish(PATIENCE)


def test_outcomes_within_a_short_time_are_written_together(scene: Scene) -> None:
    """After a hundred outcomes within the gathering time, the file is replaced once."""
    exporter = scene.exporter(heartbeat=60, gather=1.0)
    exporter.start()
    wait_until(scene.path.exists, "the start")
    inodes = {scene.inode}
    for _ in range(100):
        exporter.note(RESTORED)
    while scene.restored < 100:
        inodes.add(scene.inode)
    inodes.add(scene.inode)
    assert len(inodes) == 2
    exporter.finish(PATIENCE)


def test_its_date_shows_that_lensd_runs(scene: Scene) -> None:
    """It is written without any outcome too. At the end `lensd_up` becomes 0."""
    exporter = scene.exporter(heartbeat=0.05)
    exporter.start()
    wait_until(scene.path.exists, "the start")
    first = scene.path.stat().st_mtime_ns
    wait_until(lambda: scene.path.stat().st_mtime_ns > first, "the heartbeat")
    assert Textfile(scene.path).get("lensd_up") == 1
    exporter.finish(PATIENCE)
    assert not exporter.is_alive()
    assert Textfile(scene.path).get("lensd_up") == 0


def test_failing_writes_are_logged_once(scene: Scene) -> None:
    """Many failures are one event with path and remedy, and one event when writing works again."""
    scene.path.parent.rmdir()
    exporter = scene.exporter(heartbeat=0.02)
    exporter.start()
    wait_until(lambda: bool(scene.logged), "the failure is logged")
    scene.path.parent.mkdir()
    wait_until(lambda: len(scene.logged) == 2, "the recovery is logged")
    exporter.finish(PATIENCE)
    first, second = scene.logged
    assert isinstance(first, DaemonDegraded)
    assert isinstance(second, DaemonRecovered)
    assert first.path == str(scene.path)
    assert "No such file" in first.message
    assert "metrics.textfile" in first.message


def test_an_exporter_that_was_not_started_can_be_finished(scene: Scene) -> None:
    """lensd may end before it starts the exporter."""
    scene.exporter(heartbeat=60).finish(PATIENCE)
    assert not scene.path.exists()
