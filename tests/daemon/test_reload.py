"""SIGHUP: the configuration is read again, and what is faulty changes nothing."""

from __future__ import annotations

import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from lensd import __version__
from lensd.config.load import load_for_run
from lensd.daemon import app
from lensd.daemon.inbox import Inbox, Reload, Stop
from lensd.daemon.loop import Daemon
from lensd.store.lease import block_lease_signal
from lensd.store.ledger import Ledger
from tests.support.home_server import HomeServer, wait_until


def test_a_new_folder_and_new_settings_hold_from_then_on(server: HomeServer) -> None:
    """The same process; files of the new folder are jobs, and the mode is the new one."""
    more = server.top / "more"
    more.mkdir()
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        first = server.drop("first.safetensors", seed=1).path
        assert daemon.wait_for_file(first)["mode"] == "ultra"
        server.configure(
            watch=[{"path": str(server.loras)}, {"path": str(more)}], defaults={"mode": "rank"}
        )
        daemon.process.send_signal(signal.SIGHUP)
        daemon.wait_for_event("daemon.reloaded")
        assert daemon.wait_for_event("daemon.ready")["watches"] == ["loras", "more"]
        second = server.make("second.safetensors", seed=2).path
        path = second.rename(more / "second.safetensors")
        assert daemon.wait_for_file(path)["mode"] == "rank"
        third = server.drop("third.safetensors", seed=3).path
        assert daemon.wait_for_file(third)["mode"] == "rank"
        assert daemon.stop() == 0
    assert daemon.of(first).count("file.compressed") == 1


def test_a_faulty_file_is_refused_and_the_old_one_stays(server: HomeServer) -> None:
    """One line names key and line of the fault; files go on being compressed as before."""
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        good = server.config.read_text()
        server.config.write_text(good.replace('"watch"', '"wotch"'))
        daemon.process.send_signal(signal.SIGHUP)
        refused = daemon.wait_for_event("daemon.refused")
        assert "wotch" in refused["message"]
        path = server.drop("style.safetensors", seed=1).path
        assert daemon.wait_for_file(path)["event"] == "file.compressed"
        server.config.write_text(good.replace(str(server.state), str(server.top / "state2")))
        daemon.process.send_signal(signal.SIGHUP)
        assert "state2" in daemon.wait_for_event("daemon.refused")["message"]
        server.config.write_text(good)
        daemon.process.send_signal(signal.SIGHUP)
        daemon.wait_for_event("daemon.ready")
        assert daemon.stop() == 0


def test_a_job_under_way_begins_again(server: HomeServer) -> None:
    """Nothing is lost by a reload in the middle of a job: it is done with the new settings."""
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        first = server.drop("first.safetensors", seed=1).path
        daemon.wait_for_file(first, "file.compressed")
        server.configure(defaults={"mode": "rank"})
        path = server.drop("style.safetensors", seed=2).path
        daemon.wait_for_file(path, "file.settled")
        daemon.process.send_signal(signal.SIGHUP)
        assert daemon.wait_for_file(path, "file.compressed")["mode"] in ("rank", "ultra")
        assert daemon.stop() == 0
    assert daemon.of(path).count("file.compressed") == 1
    assert [] == server.temporaries()


def test_one_job_thread_at_a_time(server: HomeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that outlasts the end of all threads is waited for before the next ones start."""
    monkeypatch.setattr(app, "STOP_SECONDS", 0.1)
    server.state.mkdir()
    block_lease_signal()
    ledger = Ledger(str(server.state), __version__)
    inbox = Inbox()
    daemon = Daemon(load_for_run(str(server.config)), ledger, time.monotonic(), inbox)
    started, may_end = threading.Event(), threading.Event()

    def request() -> int:
        started.set()
        may_end.wait(60)
        return 0

    with ThreadPoolExecutor(2) as threads:
        life = threads.submit(daemon.run)
        wait_until(daemon._app.job_thread.is_alive, "the job thread")
        answer = daemon._app.job_thread.submit(request)
        assert started.wait(60)
        inbox.put(Reload())
        with pytest.raises(TimeoutError):
            life.result(2)
        may_end.set()
        assert answer.result(60) == 0
        assert life.result(60) is not None
    assert not daemon._app.job_thread.is_alive()
    ledger.close()


def test_hints_of_a_folder_that_is_no_longer_watched(server: HomeServer) -> None:
    """They came before the reload, and are read after it."""
    server.state.mkdir()
    block_lease_signal()
    ledger = Ledger(str(server.state), __version__)
    inbox = Inbox()
    for hint in (inbox.note_new_folder, inbox.note_lost_events, inbox.note_changed_root):
        hint("/no/longer/watched")
    inbox.put(Stop(signal.SIGTERM))
    assert Daemon(load_for_run(str(server.config)), ledger, time.monotonic(), inbox).run() is None
    ledger.close()
