"""Which roots are open to jobs, in all threads."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lensd.daemon.inbox import Inbox, RootChanged
from lensd.watcher import root_identity
from lensd.watcher.root_states import RootStates


class Roots:
    """Two watched folders, and their states."""

    def __init__(self, top: Path) -> None:
        self.inbox = Inbox()
        self.a, self.b = str(top / "a"), str(top / "b")
        for path in (self.a, self.b):
            Path(path).mkdir()
        self.states = RootStates([self.a, self.b], self.inbox)

    def open(self, *roots: str) -> None:
        for root in roots:
            self.states.open(root, root_identity.probe(root).identity)


@pytest.fixture
def roots(tmp_path: Path) -> Roots:
    return Roots(tmp_path)


def test_a_root_is_closed_until_it_was_checked(roots: Roots) -> None:
    """No job begins in a folder that nobody has looked at."""
    assert {roots.a, roots.b} == roots.states.closed
    assert roots.states.must_wait(roots.a)
    roots.open(roots.a)
    assert {roots.b} == roots.states.closed
    assert not roots.states.must_wait(roots.a)
    assert not roots.states.must_wait("/not/watched")


def test_a_job_finds_another_folder_in_the_place_of_its_root(roots: Roots) -> None:
    """The root is closed at once, and the main loop gets one hint."""
    roots.open(roots.a, roots.b)
    Path(roots.a).rename(roots.a + " old")
    Path(roots.a).mkdir()
    assert roots.states.must_wait(roots.a)
    assert {roots.a} == roots.states.closed
    assert [roots.inbox.get(0) for _ in range(2)] == [RootChanged(roots.a), None]
    roots.open(roots.a)
    assert not roots.states.must_wait(roots.a)


@pytest.fixture
def busy_threads() -> Iterator[None]:
    """Threads take turns after every few instructions."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("busy_threads")
def test_no_change_of_one_root_is_lost_by_a_change_of_another(roots: Roots) -> None:
    """The main loop opens and closes one root while a job closes the other again and again."""
    roots.open(roots.a)
    ended = threading.Event()

    def open_and_close() -> None:
        for _ in range(20_000):
            roots.states.close(roots.a)
            roots.states.open(roots.a, identity)
        ended.set()

    identity = root_identity.probe(roots.a).identity
    main = threading.Thread(target=open_and_close)
    main.start()
    lost = 0
    while not ended.is_set():
        roots.states.close(roots.b)
        lost += roots.b not in roots.states.closed
        roots.states.open(roots.b, identity)
        lost += roots.b in roots.states.closed
    main.join()
    assert lost == 0
    assert roots.a not in roots.states.closed
