"""Watched folders that are links, links inside them, and files that move."""

from __future__ import annotations

import os
import signal
from itertools import count

import psutil
import pytest

from tests.daemon.conftest import Running
from tests.support.home_server import HomeServer, Seen, wait_until
from tests.support.realistic import small_lora
from tests.support.running import RunningDaemon

NUMBERS = count()


def _hold_the_worker(server: HomeServer, daemon: RunningDaemon) -> int:
    """Stop the worker where it waits for its next file, so that the next job lasts."""
    first = server.drop(f"first-{next(NUMBERS)}.safetensors", seed=1).path
    daemon.wait_for_file(first, "file.compressed")
    [worker] = psutil.Process(daemon.process.pid).children()
    worker.suspend()
    return worker.pid


@pytest.mark.slow
@pytest.mark.fault("links")
def test_a_watched_folder_may_be_a_link_but_links_inside_are_not_entered(
    server: HomeServer,
) -> None:
    """The line and the archive speak of the real folder; a linked one is named and left alone."""
    linked = server.top / "pool"
    linked.mkdir()
    outside = small_lora(linked / "outside.safetensors", seed=1)
    before = Seen.of(outside.path)
    (server.loras / "pool").symlink_to(linked)
    link = server.top / "my-loras"
    link.symlink_to(server.loras)
    server.configure(watch=[{"path": str(link), "existing": "compress"}])
    with server.daemon() as daemon:
        baseline = daemon.wait_for_event("daemon.baseline")
        assert baseline["symlinked_folders"] == ["pool"]
        assert baseline["path"] == str(link)
        path = server.drop("style.safetensors", seed=2).path
        line = daemon.wait_for_event("file.compressed")
        assert (line["path"], line["watch"]) == (str(path), "my-loras")
        assert (server.archive / "my-loras" / "style.safetensors").is_file()
        (linked / "outside.safetensors").touch()
        later = server.drop("later.safetensors", seed=3).path
        daemon.wait_for_file(later, "file.compressed")
    assert before.sha256 == Seen.of(outside.path).sha256
    assert not [line for line in daemon.lines if "outside" in line.get("path", "")]
    assert server.lensd("restore", link / "style.safetensors").returncode == 0
    assert Seen.of(path).sha256 == line["sha256_in"]


@pytest.mark.slow
def test_a_file_that_is_renamed_while_it_waits_its_turn(running: Running) -> None:
    """Its job follows it: the new name is compressed and archived under that name."""
    server, daemon = running
    worker = _hold_the_worker(server, daemon)
    blocking = server.drop("blocking.safetensors", seed=2).path
    daemon.wait_for_file(blocking, "file.settled")
    wait_until(lambda: bool(server.temporaries()), "the job runs")
    old = server.drop("old.safetensors", seed=3).path
    daemon.wait_for_file(old, "file.settled")
    new = old.with_name("new.safetensors")
    sha256 = Seen.of(old).sha256
    old.rename(new)
    assert daemon.wait_for_file(new, "file.moved")["from_path"] == str(old)
    os.kill(worker, signal.SIGCONT)
    line = daemon.wait_for_file(new)
    assert (line["event"], line["sha256_in"]) == ("file.compressed", sha256)
    assert daemon.of(old) == ["file.detected", "file.settled"]
    assert not old.exists()
    assert server.archived(new).is_file()
    assert not server.archived(old).exists()
    assert [] == server.temporaries()


def test_a_file_that_is_renamed_during_its_job(running: Running) -> None:
    """Nothing is published under the old name; the job begins again under the new one."""
    server, daemon = running
    worker = _hold_the_worker(server, daemon)
    old = server.drop("before.safetensors", seed=2).path
    daemon.wait_for_file(old, "file.settled")
    wait_until(lambda: bool(server.temporaries()), "the job runs")
    new = old.with_name("after.safetensors")
    old.rename(new)
    os.kill(worker, signal.SIGCONT)
    assert daemon.wait_for_file(new, "file.moved")["from_path"] == str(old)
    assert daemon.wait_for_file(new)["event"] == "file.compressed"
    assert not old.exists()
    assert [] == server.temporaries()


def test_a_vanished_file_that_comes_back_is_taken(running: Running) -> None:
    """Moved away before its turn, and back again unchanged."""
    server, daemon = running
    worker = _hold_the_worker(server, daemon)
    blocking = server.drop("blocking2.safetensors", seed=5).path
    daemon.wait_for_file(blocking, "file.settled")
    path = server.drop("moving.safetensors", seed=3).path
    daemon.wait_for_file(path, "file.settled")
    away = server.elsewhere / "away.safetensors"
    path.rename(away)
    os.kill(worker, signal.SIGCONT)
    assert daemon.wait_for_file(path)["reason"] == "vanished"
    away.rename(path)
    assert daemon.wait_for_file(path)["event"] == "file.compressed"
