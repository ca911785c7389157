"""A home server for each test, or one with a running daemon for a whole module."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from lensd import __version__
from lensd.config.load import load_for_run
from lensd.daemon.app import App
from lensd.daemon.inbox import Inbox
from lensd.store.lease import block_lease_signal
from lensd.store.ledger import Ledger
from tests.support.home_server import HomeServer, wait_until
from tests.support.running import RunningDaemon

# What the daemon may need at most in MiB, without the files that it maps: how much of them is
# resident depends on the kernel and its page cache.
OWN_MEBIBYTES = 38.0


class Running(NamedTuple):
    """A home server whose daemon is ready."""

    server: HomeServer
    daemon: RunningDaemon


@contextmanager
def started_app(server: HomeServer) -> Iterator[App]:
    """The parts of a daemon at work in this process, without its main loop."""
    block_lease_signal()
    server.state.mkdir()
    with closing(Ledger(str(server.state), __version__)) as ledger:
        app = App(load_for_run(str(server.config)), ledger, Inbox(), patient=True)
        app.start()
        wait_until(lambda: app.has_started, "started")
        try:
            yield app
        finally:
            app.close()


@pytest.fixture
def server(tmp_path: Path) -> HomeServer:
    """Folders and a configuration; nothing runs yet."""
    return HomeServer(tmp_path)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One daemon for the module. At its end: exit status 0, and no temporary is left."""
    server = HomeServer(tmp_path_factory.mktemp("server"))
    with server.daemon(forked=True) as daemon:
        daemon.wait_for_event("daemon.ready")
        yield Running(server, daemon)
        assert daemon.stop() == 0
    assert [] == server.temporaries()
