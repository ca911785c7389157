"""When the daily pass is due, and that a pass can be stopped between two files."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lensd import __version__
from lensd.config.document import KeepRules
from lensd.jobs.daily_prune import DailyPass, Schedule
from lensd.jobs.prune import Pruner
from lensd.store.archive import Archive
from lensd.store.lease import block_lease_signal
from lensd.store.ledger import Ledger
from lensd.store.ledger.notes import PruneInProgress
from lensd.watcher.folder import Log
from tests.support.aging import age
from tests.support.descriptors import open_paths
from tests.support.disks import remount, tmpfs
from tests.support.home_server import HomeServer, Seen
from tests.support.limits import PATIENCE

DAY, HOUR = 86400.0, 3600.0
WHERE = ["the output", pytest.param("the original", marks=pytest.mark.slow)]
NOW = 1_800_000_000.0


@pytest.mark.parametrize("last", [None, NOW - DAY, NOW - 40 * DAY, NOW + HOUR])
def test_an_overdue_pass_comes_within_an_hour_of_the_start(last: float | None) -> None:
    """Not at once: a start has enough to do. A last pass in the future was a wrong clock."""
    schedule = Schedule(100)
    assert not schedule.is_due(last, NOW + 1, 101)
    assert schedule.is_due(last, NOW + HOUR / 2, 100 + HOUR / 2)


def test_once_a_day() -> None:
    """Whenever the daemon started."""
    schedule = Schedule(100)
    for hours in (1, 12, 23.9):
        assert not schedule.is_due(NOW, NOW + hours * HOUR, 100 + hours * HOUR)
    assert schedule.is_due(NOW, NOW + DAY, 100 + DAY)


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
    block_lease_signal()
    ledger = Ledger(str(server.state), __version__)
    yield ledger
    ledger.close()


def _pruner(server: HomeServer, ledger: Ledger, events: Events) -> Pruner:
    archive = Archive(os.path.realpath(server.archive))
    return Pruner(ledger, archive, _record_in(events), KeepRules(30), 0.1)


def _daily_pass(server: HomeServer, ledger: Ledger, events: Events) -> DailyPass:
    return DailyPass(_pruner(server, ledger, events), ledger, _record_in(events))


def _record_in(events: Events) -> Log:
    return lambda event: events.append((event.name, msgspec.to_builtins(event)))


def test_the_daily_pass_is_told_and_noted(server: HomeServer, ledger: Ledger) -> None:
    """A line per original and one for the pass, with what stays; then nothing is due for a day."""
    (server.loras / "b.safetensors").unlink()
    events: Events = []
    daily = _daily_pass(server, ledger, events)
    assert daily.last_run() is None
    now = time.time()
    daily.run(now, lambda: False)
    assert ["file.pruned", "file.pruned", "daemon.pruned"] == [event for event, _ in events]
    assert (events[-1][1]["files"], events[-1][1]["kept"]) == (2, 1)
    assert events[-1][1]["bytes"] == sum(fields["bytes"] for _, fields in events[:-1])
    assert daily.last_run() == now
    left = [path.name for path in (server.archive / "loras").iterdir()]
    assert left == ["b.safetensors"]


@pytest.mark.slow
def test_a_pass_is_stopped_between_two_files(server: HomeServer, ledger: Ledger) -> None:
    """A job is waiting: the rest is done at the next pass, which is still due."""
    events: Events = []
    daily = _daily_pass(server, ledger, events)
    daily.run(time.time(), lambda: bool(events))
    assert ["file.pruned"] == [event for event, _ in events]
    assert daily.last_run() is None
    assert len(list((server.archive / "loras").iterdir())) == 2
    daily.run(time.time(), lambda: False)
    assert not (server.archive / "loras").exists() or not any((server.archive / "loras").iterdir())


def _replace(path: Path) -> None:
    """By another file with the same bytes."""
    other = path.with_suffix(".other")
    shutil.copy2(path, other)
    other.rename(path)


@pytest.mark.parametrize("while_it_reads", WHERE)
@pytest.mark.parametrize(
    "harm",
    [Path.unlink, *(pytest.param(h, marks=pytest.mark.slow) for h in (_replace, Path.touch))],
)
def test_an_output_that_goes_during_the_pass_keeps_its_original(
    server: HomeServer, ledger: Ledger, harm: Callable[[Path], object], while_it_reads: str
) -> None:
    """It was there, whole, when its turn came; it is looked at again before the original goes."""
    path = server.loras / "b.safetensors"
    archived = server.archived(path)
    read = path if while_it_reads == "the output" else archived
    events: Events = []

    def stop() -> bool:
        """Asked before each piece of a file that is read."""
        if path.exists() and not harmed and _has_open(read):
            harmed.append(harm(path))
        return False

    harmed: list[object] = []
    pruner = _pruner(server, ledger, events)
    kept = {r.path: r.kept_because for r in pruner.prune(time.time(), stop)}
    assert len(harmed) == 1
    assert "while lensd read it" in (kept.pop(str(path)) or "")
    assert [None, None] == list(kept.values())
    assert archived.exists()
    assert ["file.pruned", "file.pruned"] == [event for event, _ in events]
    entry = ledger.files.find(str(server.loras), path.name)
    assert entry is not None
    assert entry.archive_path == str(archived)


def _has_open(path: Path) -> bool:
    return os.path.realpath(path) in open_paths()


@pytest.mark.slow
@pytest.mark.parametrize("deleted", [False, True])
def test_a_pass_that_was_cut_off_is_finished(
    server: HomeServer, ledger: Ledger, *, deleted: bool
) -> None:
    """An original that was deleted is recorded as such; no other one goes without its output."""
    path = server.loras / "b.safetensors"
    archived = server.archived(path)
    entry = ledger.files.find(str(server.loras), path.name)
    assert entry is not None
    ledger.state.prune_in_progress.set(PruneInProgress(entry.job_id, (str(archived),)))
    path.unlink()  # before the next start
    if deleted:
        archived.unlink()
    events: Events = []
    _pruner(server, ledger, events).finish_interrupted()
    assert [fields["path"] for _, fields in events] == ([str(path)] if deleted else [])
    assert archived.exists() != deleted
    assert ledger.state.prune_in_progress.get() is None


@pytest.fixture(params=WHERE)
def target(request: pytest.FixtureRequest, server: HomeServer) -> Path:
    """The file of `b.safetensors` that another program writes to."""
    path = server.loras / "b.safetensors"
    return path if request.param == "the output" else server.archived(path)


def _kept(server: HomeServer, ledger: Ledger, stop: Callable[[], bool]) -> dict[str, str | None]:
    """Why each file that was due is kept."""
    return {r.path: r.kept_because for r in _pruner(server, ledger, []).prune(time.time(), stop)}


@pytest.mark.fault("written meanwhile")
def test_a_file_that_a_program_has_open_for_writing_is_kept(
    server: HomeServer, ledger: Ledger, target: Path
) -> None:
    """What it writes later may be all that is left of the file."""
    path = server.loras / "b.safetensors"
    with target.open("r+b"):
        kept = _kept(server, ledger, lambda: False)
    assert f"{target} open for writing" in (kept.pop(str(path)) or "")
    assert [None, None] == list(kept.values())
    assert server.archived(path).exists()


@pytest.mark.slow
@pytest.mark.fault("written meanwhile")
def test_a_writer_that_comes_while_lensd_reads_keeps_the_original(
    server: HomeServer, ledger: Ledger, target: Path
) -> None:
    """The lease shows it, although size and times are as they were; it waits only a moment."""
    path = server.loras / "b.safetensors"
    writers: list[threading.Thread] = []

    def write() -> None:
        found = target.stat()
        with target.open("r+b") as file:
            file.write(b"")
        os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))

    def stop() -> bool:
        if not writers and target.exists() and _has_open(target):
            writers.append(threading.Thread(target=write))
            writers[0].start()
            writers[0].join(PATIENCE)
        return False

    kept = _kept(server, ledger, stop)
    assert len(writers) == 1
    assert kept[str(path)] is not None
    assert server.archived(path).exists()


@pytest.mark.slow
def test_a_file_whose_job_waits_keeps_its_original(server: HomeServer, ledger: Ledger) -> None:
    """`once --redo` starts from it."""
    path = server.loras / "a.safetensors"
    entry = ledger.files.current(str(server.loras), path.name)
    assert entry is not None
    ledger.jobs.enqueue(
        "again", entry.root, entry.watch, entry.path, entry.identity,
        redo=True, sha256_in=entry.sha256_in, archive_path=entry.archive_path,
    )  # fmt: skip
    results = list(_pruner(server, ledger, []).prune(time.time(), lambda: False))
    kept = {os.path.basename(r.path): r.kept_because for r in results}
    assert kept["a.safetensors"] == "a job for this file is queued or running"
    assert kept["b.safetensors"] is None
    assert Seen.of(server.archived(path)).sha256 == entry.sha256_in


@pytest.mark.slow
def test_a_read_only_archive_ends_no_daily_pass(tmp_path: Path) -> None:
    """The originals stay and are still due; when the disk is writable again they are deleted."""
    block_lease_signal()
    server = HomeServer(tmp_path)
    with tmpfs(server.archive):
        paths = [server.drop(f"{name}.safetensors", seed=s).path for s, name in enumerate("ab")]
        server.once()
        for path in paths:
            age(server, path, 31)
        remount(server.archive, read_only=True)
        events: Events = []
        ledger = Ledger(str(server.state), __version__)
        try:
            daily = _daily_pass(server, ledger, events)
            daily.run(time.time(), lambda: False)
            assert ["daemon.pruned"] == [event for event, _ in events]
            assert (events[0][1]["files"], events[0][1]["kept"]) == (0, 2)
            assert server.lensd("verify").returncode == 0
            remount(server.archive, read_only=False)
            daily.run(time.time(), lambda: False)
            assert [] == [path for path in paths if server.archived(path).exists()]
        finally:
            ledger.close()
