"""SIGHUP: the configuration is read again, and what is faulty changes nothing."""

from __future__ import annotations

import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from lensd import __version__
from lensd.config.load import load_for_run
from lensd.daemon import app
from lensd.daemon.inbox import Inbox, Reload, Stop
from lensd.daemon.loop import Daemon
from lensd.store.lease import block_lease_signal
from lensd.store.ledger import Ledger
from tests.support.home_server import HomeServer, wait_until
from tests.support.limits import PATIENCE
from tests.support.running import RunningDaemon


def test_a_new_folder_and_new_settings_hold_from_then_on(server: HomeServer) -> None:
    """The same process; files of the new folder are jobs, and the mode is the new one."""
    more = server.top / "more"
    more.mkdir()
    with server.daemon(forked=True) as daemon:
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
    with server.daemon(forked=True) as daemon:
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


@pytest.mark.slow
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
        server.configure(defaults={"mode": "rank"})
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


def _reload(server: HomeServer, daemon: RunningDaemon, mode: str) -> None:
    """With other settings, so that all parts are built again."""
    server.configure(defaults={"mode": mode}, log={"path": str(server.top / "lensd.log")})
    count = _count(server, "daemon.ready")
    daemon.process.send_signal(signal.SIGHUP)
    wait_until(lambda: _count(server, "daemon.ready") > count, "ready again", 60)


def _count(server: HomeServer, event: str) -> int:
    log = server.top / "lensd.log"
    return log.read_text().count(f'"{event}"') if log.exists() else 0


@pytest.mark.slow
def test_a_reload_leaves_no_descriptor(server: HomeServer) -> None:
    """Neither of the log's file nor of another part."""
    server.configure(log={"path": str(server.top / "lensd.log")})
    with server.daemon() as daemon:
        wait_until(lambda: _count(server, "daemon.ready") > 0, "ready")
        _reload(server, daemon, "rank")  # SQLite keeps one descriptor from the first reload on
        opened = Path(f"/proc/{daemon.process.pid}/fd")
        before = len(list(opened.iterdir()))
        for mode in ("ultra", "rank") * 3:
            _reload(server, daemon, mode)
        wait_until(lambda: len(list(opened.iterdir())) <= before, "as many descriptors as before")


@pytest.mark.slow
def test_three_hundred_reloads(server: HomeServer) -> None:
    """Those that wait are one, and the files are compressed meanwhile."""
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        server.configure(defaults={"mode": "rank"})
        path = server.drop("style.safetensors", seed=1).path
        for _ in range(300):
            daemon.process.send_signal(signal.SIGHUP)
            time.sleep(0.01)
        assert daemon.wait_for_file(path, "file.compressed", seconds=30)["mode"] == "rank"
        assert daemon.stop() == 0


def _opened(daemon: RunningDaemon) -> set[Path]:
    """What the daemon has open now."""
    found = set()
    for descriptor in Path(f"/proc/{daemon.process.pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # it was closed meanwhile
            found.add(descriptor.readlink())
    return found


@pytest.mark.slow
@pytest.mark.parametrize("existing", ["leave", "compress"])
def test_sigterm_during_a_long_scan(server: HomeServer, existing: str) -> None:
    """A folder of 100,000 files: lensd ends within seconds of the signal, and is not ready yet."""
    for number in range(100_000):
        (server.loras / f"{number}.safetensors").touch()
    server.configure(watch=[{"path": str(server.loras), "existing": existing}])
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.started")
        wait_until(lambda: server.loras in _opened(daemon), "the scan has begun")
        began = time.monotonic()
        daemon.process.send_signal(signal.SIGTERM)
        daemon.wait_for_event("daemon.stopping", 2)
        assert daemon.process.wait(PATIENCE) == 0
        assert time.monotonic() - began < 10
    assert "daemon.ready" not in {line["event"] for line in daemon.lines}
