"""A watched folder that is back: the job thread repairs it, then its own thread opens it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager

import pytest

from lensd.daemon.app import App
from tests.daemon.conftest import started_app
from tests.support.home_server import HomeServer, wait_until


class Folder:
    """The watched folder, which goes and comes back, and the parts that watch it."""

    def __init__(self, server: HomeServer, app: App) -> None:
        self._server, self._app = server, app
        self.root = str(server.loras)

    @property
    def is_closed(self) -> bool:
        self._app.context.hints.note_changed_root(self.root)  # the next check need not be due
        return self.root in self._app.root_states.closed

    @property
    def is_shut(self) -> bool:
        """Whether it has to be repaired."""
        return self.root in self._app.root_states.shut

    @contextmanager
    def straggler(self) -> Iterator[None]:
        """A job thread was left in the folder and has not ended."""
        may_end = threading.Event()
        thread = threading.Thread(target=may_end.wait, args=[60])
        thread.start()
        self._app._stragglers.add(thread, [self.root])
        wait_until(lambda: self.root in self._app.root_states.hanging, "hanging")
        yield
        may_end.set()
        thread.join()

    def wait_for_repair(self) -> None:
        """The folder's own thread has followed it."""
        assert self.last_request().result(60) == 0
        [thread] = self._app._threads
        wait_until(lambda: thread._repair is None, "repaired")

    def go(self) -> None:
        self._server.loras.rename(self._server.top / "away")
        wait_until(lambda: self.is_closed, "closed")

    def come_back(self) -> None:
        (self._server.top / "away").rename(self._server.loras)

    def wait_until_open(self) -> None:
        wait_until(lambda: not self.is_closed, "open")

    @contextmanager
    def busy_job_thread(self) -> Iterator[None]:
        """It has another request, and a request to repair the folder behind that."""
        begun, may_end = threading.Event(), threading.Event()

        def request() -> int:
            begun.set()
            may_end.wait(60)
            return 0

        answer = self._app.job_thread.submit(request)
        assert begun.wait(60)
        repairs = self._app.job_thread._requests
        yield
        wait_until(lambda: self.is_closed and bool(repairs), "a request for a repair")
        may_end.set()
        assert answer.result(60) == 0

    def last_request(self) -> Future[int]:
        """Done when the job thread has nothing more to do."""
        return self._app.job_thread.submit(lambda: 0)


@pytest.fixture
def folder(server: HomeServer) -> Iterator[Folder]:
    """It was there, and is missing now."""
    with started_app(server) as app:
        folder = Folder(server, app)
        folder.go()
        yield folder


def test_a_folder_that_is_back(folder: Folder) -> None:
    """It stays closed until its jobs were continued."""
    with folder.busy_job_thread():
        folder.come_back()
    folder.wait_until_open()


@pytest.mark.slow
def test_a_folder_that_goes_again_during_its_repair(folder: Folder) -> None:
    """It stays closed, and the check after its next return repairs it."""
    with folder.busy_job_thread():
        folder.come_back()
        wait_until(lambda: bool(folder._app.job_thread._requests), "a request for a repair")
        folder.go()
    assert folder.last_request().result(60) == 0
    assert folder.is_closed
    folder.come_back()
    folder.wait_until_open()


def test_a_folder_where_a_thread_was_left(folder: Folder) -> None:
    """No other thread works in it before that one has ended."""
    with folder.straggler():
        with folder.busy_job_thread():
            folder.come_back()
        folder.wait_for_repair()
        assert folder.is_shut
    folder.wait_until_open()
