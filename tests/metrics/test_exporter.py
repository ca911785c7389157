"""When the textfile is written."""

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
from tests.support.prometheus import Textfile

PATH = "/srv/loras/a.safetensors"
RESTORED = FileRestored(
    path=PATH, watch="loras", job_id="a", sha256="0" * 64, method="move", bytes=9
)


class Scene:
    """An exporter over an empty ledger, and what it told."""

    def __init__(self, folder: Path, ledger: Ledger) -> None:
        self.path = folder / "metrics/lensd.prom"
        self.path.parent.mkdir()
        self.told: list[Event] = []
        self._ledger = ledger

    def exporter(self, *, heartbeat: float, gather: float = 0.0) -> Exporter:
        return Exporter(
            str(self.path),
            "0.1.0",
            self._ledger,
            ("loras", "flux"),
            lambda: ["flux"],
            self.told.append,
            heartbeat=heartbeat,
            gather=gather,
        )

    @property
    def inode(self) -> int:
        """Another one after each write."""
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
    """Every outcome is there as 0 before the first; a line that is no outcome writes nothing."""
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
    exporter.finish(5)


def test_outcomes_that_come_together_are_one_write(scene: Scene) -> None:
    """A hundred within the time of gathering: the file is replaced once."""
    exporter = scene.exporter(heartbeat=60, gather=0.5)
    exporter.start()
    wait_until(scene.path.exists, "the start")
    inodes = {scene.inode}
    for _ in range(100):
        exporter.note(RESTORED)
    while scene.restored < 100:
        inodes.add(scene.inode)
    inodes.add(scene.inode)
    assert len(inodes) == 2
    exporter.finish(5)


def test_its_date_tells_that_lensd_lives(scene: Scene) -> None:
    """It is written anew without any news; after the end it is not, and says so."""
    exporter = scene.exporter(heartbeat=0.05)
    exporter.start()
    wait_until(scene.path.exists, "the start")
    first = scene.path.stat().st_mtime_ns
    wait_until(lambda: scene.path.stat().st_mtime_ns > first, "the heartbeat")
    assert Textfile(scene.path).get("lensd_up") == 1
    exporter.finish(5)
    assert not exporter.is_alive()
    assert Textfile(scene.path).get("lensd_up") == 0


def test_what_cannot_be_written_is_told_once(scene: Scene) -> None:
    """However often it is tried, with path and remedy; and once that it can again."""
    scene.path.parent.rmdir()
    exporter = scene.exporter(heartbeat=0.02)
    exporter.start()
    wait_until(lambda: bool(scene.told), "it is told")
    scene.path.parent.mkdir()
    wait_until(lambda: len(scene.told) == 2, "it is told again")
    exporter.finish(5)
    first, second = scene.told
    assert isinstance(first, DaemonDegraded)
    assert isinstance(second, DaemonRecovered)
    assert first.path == str(scene.path)
    assert "No such file" in first.message
    assert "metrics.textfile" in first.message


def test_who_was_never_started_can_be_finished(scene: Scene) -> None:
    """lensd may have to end before it got so far."""
    scene.exporter(heartbeat=60).finish(5)
    assert not scene.path.exists()
