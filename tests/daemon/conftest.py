"""A home server for each test, or one with a running daemon for a whole module."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.home_server import HomeServer
from tests.support.running import RunningDaemon

# What the daemon may need at most in MiB, without the files that it maps: how much of them is
# resident depends on the kernel and its page cache.
OWN_MEBIBYTES = 38.0


class Running(NamedTuple):
    """A home server whose daemon is ready."""

    server: HomeServer
    daemon: RunningDaemon


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
