"""When the daily pass is due, and that a pass can be stopped between two files."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lensd import __version__
from lensd.jobs.prune import Daily, Pruner
from lensd.logs.events import Event
from lensd.store.archive import Archive
from lensd.store.ledger import Ledger
from tests.support.aging import age
from tests.support.home_server import HomeServer, Seen

DAY, HOUR = 86400.0, 3600.0
NOW = 1_800_000_000.0


@pytest.mark.parametrize("last", [None, NOW - DAY, NOW - 40 * DAY, NOW + HOUR])
def test_an_overdue_pass_comes_within_an_hour_of_the_start(last: float | None) -> None:
    """Not at once: a start has enough to do. A last pass in the future was a wrong clock."""
    daily = Daily(NOW, 100)
    assert not daily.is_due(last, NOW + 1, 101)
    assert daily.is_due(last, NOW + HOUR / 2, 100 + HOUR / 2)


def test_once_a_day() -> None:
    """Whenever the daemon started."""
    daily = Daily(NOW, 100)
    for hours in (1, 12, 23.9):
        assert not daily.is_due(NOW, NOW + hours * HOUR, 100 + hours * HOUR)
    assert daily.is_due(NOW, NOW + DAY, 100 + DAY)


@pytest.mark.fault("clock")
@pytest.mark.parametrize("jump", [365 * DAY, -365 * DAY, 2 * HOUR])
def test_after_a_jump_of_the_clock_a_day_must_pass_in_peace(jump: float) -> None:
    """Nothing is old all at once; and a clock that is put right again starts the day anew."""
    daily = Daily(NOW, 100)
    last = NOW - 2 * DAY
    assert not daily.is_due(last, NOW + jump + HOUR, 100 + HOUR)
    assert not daily.is_due(last, NOW + jump + 20 * HOUR, 100 + 20 * HOUR)
    assert not daily.is_due(last, NOW + 21 * HOUR, 100 + 21 * HOUR)
    assert not daily.is_due(last, NOW + 44 * HOUR, 100 + 44 * HOUR)
    assert daily.is_due(last, NOW + 46 * HOUR, 100 + 46 * HOUR)


def test_a_sleeping_machine_has_not_set_its_clock() -> None:
    """Both clocks count the night."""
    daily = Daily(NOW, 100)
    assert daily.is_due(NOW - DAY, NOW + 9 * HOUR, 100 + 9 * HOUR)


Events = list[tuple[str, dict[str, Any]]]


@pytest.fixture
def server(tmp_path: Path) -> HomeServer:
    """Three files that were compressed 31 days ago."""
    server = HomeServer(tmp_path)
    paths = [server.drop(f"{name}.safetensors", seed=s).path for s, name in enumerate("abc")]
    server.once()
    for path in paths:
        age(server, path, 31)
    return server


@pytest.fixture
def ledger(server: HomeServer) -> Iterator[Ledger]:
    ledger = Ledger(str(server.state), __version__)
    yield ledger
    ledger.close()


def _pruner(server: HomeServer, ledger: Ledger, events: Events) -> Pruner:
    def log(event: Event) -> None:
        events.append((event.name, msgspec.to_builtins(event)))

    return Pruner(ledger, Archive(os.path.realpath(server.archive)), log, 30)


def test_the_daily_pass_is_told_and_noted(server: HomeServer, ledger: Ledger) -> None:
    """A line per original and one for the pass, with what stays; then nothing is due for a day."""
    (server.loras / "b.safetensors").unlink()
    events: Events = []
    pruner = _pruner(server, ledger, events)
    assert pruner.last_pass() is None
    now = time.time()
    pruner.daily(now, lambda: False)
    assert ["file.pruned", "file.pruned", "daemon.pruned"] == [event for event, _ in events]
    assert (events[-1][1]["files"], events[-1][1]["kept"]) == (2, 1)
    assert events[-1][1]["bytes"] == sum(fields["bytes"] for _, fields in events[:-1])
    assert pruner.last_pass() == now
    left = [path.name for path in (server.archive / "loras").iterdir()]
    assert left == ["b.safetensors"]


@pytest.mark.slow
def test_a_pass_is_stopped_between_two_files(server: HomeServer, ledger: Ledger) -> None:
    """A job is waiting: the rest is done at the next pass, which is still due."""
    events: Events = []
    pruner = _pruner(server, ledger, events)
    pruner.daily(time.time(), lambda: bool(events))
    assert ["file.pruned"] == [event for event, _ in events]
    assert pruner.last_pass() is None
    assert len(list((server.archive / "loras").iterdir())) == 2
    pruner.daily(time.time(), lambda: False)
    assert not (server.archive / "loras").exists() or not any((server.archive / "loras").iterdir())


@pytest.mark.slow
def test_a_file_whose_job_waits_keeps_its_original(server: HomeServer, ledger: Ledger) -> None:
    """`once --redo` starts from it."""
    path = server.loras / "a.safetensors"
    entry = ledger.current(str(server.loras), path.name)
    assert entry is not None
    ledger.enqueue(
        "again", entry.root, entry.watch, entry.path, entry.identity,
        redo=True, sha256_in=entry.sha256_in, archive_path=entry.archive_path,
    )  # fmt: skip
    results = list(_pruner(server, ledger, []).prune(time.time(), lambda: False))
    stays = {os.path.basename(r.path): r.stays for r in results}
    assert stays["a.safetensors"] == "a job of this file is waiting or under way"
    assert stays["b.safetensors"] is None
    assert Seen.of(server.archived(path)).sha256 == entry.sha256_in
