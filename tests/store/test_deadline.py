"""Calls with a deadline."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from lensd.errors import StorageError
from lensd.store.deadline import answers, real_path, within
from tests.support.hanging import BindFs
from tests.support.marks import needs_program, needs_root


def _raise() -> None:
    raise TimeoutError("the disk says so")


def test_a_call_that_returns() -> None:
    """What it returns or raises, also a TimeoutError of its own."""
    assert within(60, lambda: 7) == 7
    with pytest.raises(TimeoutError, match="the disk says so"):
        within(60, _raise)


def test_a_call_that_does_not_return() -> None:
    """An error after the deadline, or as soon as the caller gives up."""
    never = threading.Event()
    with pytest.raises(StorageError, match="does not answer"):
        within(0.1, never.wait)
    with pytest.raises(StorageError, match="does not answer"):
        within(60, never.wait, lambda: True)
    never.set()


def test_a_folder_that_is_missing_answers(tmp_path: Path) -> None:
    """With an error."""
    assert answers(str(tmp_path / "missing"))


@pytest.mark.slow
@needs_root
@needs_program("bindfs")
def test_a_folder_that_hangs(tmp_path: Path) -> None:
    """Its path is the one above it, resolved, and its name."""
    (tmp_path / "link").symlink_to(tmp_path)
    with BindFs(tmp_path / "source", tmp_path / "folder") as disk:
        path = str(tmp_path / "link/folder/sub")
        disk.hang()
        assert not answers(path)
        assert real_path(path) == os.path.realpath(tmp_path) + "/folder/sub"
        disk.answer()
        assert answers(path)
