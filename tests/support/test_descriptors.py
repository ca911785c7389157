"""A descriptor that is left open is found, whatever other tests leave behind."""

from __future__ import annotations

import gc
import os
from pathlib import Path

from lensd import __version__
from lensd.store.ledger import Ledger
from tests.support.descriptors import Descriptors


def test_each_descriptor_that_is_left_open_is_named(tmp_path: Path) -> None:
    """A second one of the same file as well, and a pipe."""
    file = tmp_path / "file"
    fds = [os.open(file, os.O_CREAT)]
    descriptors = Descriptors()
    assert [] == descriptors.opened()
    fds += [os.open(file, os.O_RDONLY), *os.pipe()]
    opened = descriptors.opened()
    for fd in fds:
        os.close(fd)
    assert str(file) == opened[0]
    assert 3 == len(opened)
    assert opened[1].startswith("pipe:")
    assert [] == descriptors.opened()


def test_what_another_test_left_is_closed_before(tmp_path: Path) -> None:
    """A ledger in a cycle, which only the collection of garbage closes. It hides no later leak."""

    class Left:
        def __init__(self) -> None:
            self.ledger, self.itself = Ledger(str(tmp_path), __version__), self

    Left()
    descriptors = Descriptors()
    gc.collect()
    again = Ledger(str(tmp_path), __version__)
    assert str(tmp_path / "ledger.sqlite3") in descriptors.opened()
    again.close()
    assert [] == descriptors.opened()
