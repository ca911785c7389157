"""A watched folder that is back: the job thread repairs it, then the main loop opens it to jobs."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from lensd import __version__
from lensd.config.load import load_for_run
from lensd.daemon.app import App
from lensd.daemon.inbox import Inbox, RootRepaired
from lensd.store.lease import block_lease_signal
from lensd.store.ledger import Ledger
from tests.support.home_server import HomeServer

SECONDS = 60.0


@pytest.fixture
def app(server: HomeServer) -> Iterator[App]:
    """Its folder was there, and is missing now."""
    block_lease_signal()
    server.state.mkdir()
    ledger = Ledger(str(server.state), __version__)
    app = App(load_for_run(str(server.config)), ledger, Inbox(), patient=True)
    app.root_monitor.check_all()
    app.prepare()
    server.loras.rename(server.top / "away")
    app.root_monitor.check_soon()
    app.check_folders(time.monotonic())
    yield app
    app.close()
    ledger.close()


def _return(server: HomeServer, app: App) -> None:
    (server.top / "away").rename(server.loras)
    app.root_monitor.check_soon()
    app.check_folders(time.monotonic())


def _wait_for_repair(app: App) -> RootRepaired:
    deadline = time.monotonic() + SECONDS
    while not isinstance(message := app.next(deadline), RootRepaired):
        assert time.monotonic() < deadline, "no repair"
    return message


def _take_back(app: App) -> None:
    message = _wait_for_repair(app)
    app.take_back(message.root, is_complete=message.is_complete)


def test_a_folder_that_is_back(server: HomeServer, app: App) -> None:
    """It stays closed until its jobs were continued."""
    root = str(server.loras)
    path = server.top / "away/style.safetensors"
    path.touch()
    app.job_thread.start()
    assert {root} == app.root_states.closed
    _return(server, app)
    assert {root} == app.root_states.closed
    _take_back(app)
    assert frozenset() == app.root_states.closed
    assert app.intake.pending == 0
    app.check_folders(time.monotonic())
    assert app.intake.pending == 1


def test_a_folder_that_is_back_before_the_job_thread_starts(server: HomeServer, app: App) -> None:
    """The next check repairs it."""
    _return(server, app)
    assert {str(server.loras)} == app.root_states.closed
    app.job_thread.start()
    app.root_monitor.check_soon()
    app.check_folders(time.monotonic())
    _take_back(app)
    assert frozenset() == app.root_states.closed


def test_a_folder_that_goes_again_during_its_repair(server: HomeServer, app: App) -> None:
    """It stays closed, and the check after its next return repairs it."""
    app.job_thread.start()
    _return(server, app)
    message = _wait_for_repair(app)
    server.loras.rename(server.top / "away")
    app.take_back(message.root, is_complete=message.is_complete)
    assert {str(server.loras)} == app.root_states.closed
    _return(server, app)
    _take_back(app)
    assert frozenset() == app.root_states.closed
