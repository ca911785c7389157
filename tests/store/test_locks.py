"""One lensd per folder: claims of real processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lensd.errors import LockedError
from lensd.store.locks import Claims

pytestmark = pytest.mark.lengthy  # each starts a process

HOLD = "import sys; from lensd.store.locks import Claims; c = Claims(); c.claim(sys.argv[1]); "
HOLD += "print(flush=True); sys.stdin.read()"


@contextmanager
def holder(folder: Path) -> Iterator[int]:
    """Another process that claims a folder; its process id."""
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process.pid
        finally:
            process.kill()


def test_another_process_has_it(tmp_path: Path) -> None:
    """It is named, and the folder is free when it is gone, however it went."""
    with Claims() as claims:
        with holder(tmp_path) as pid, pytest.raises(LockedError, match=rf"process {pid}\b"):
            claims.claim(str(tmp_path))
        claims.claim(str(tmp_path))


def test_through_a_link(tmp_path: Path) -> None:
    """What counts is the folder, not its path."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    with holder(tmp_path / "link"), Claims() as claims, pytest.raises(LockedError):
        claims.claim(str(tmp_path / "folder"))


def test_other_folders_are_free(tmp_path: Path) -> None:
    """Two daemons may watch neighbours."""
    (tmp_path / "folder").mkdir()
    with holder(tmp_path / "folder"), Claims() as claims:
        claims.claim(str(tmp_path))


def test_one_process_may_claim_again(tmp_path: Path) -> None:
    """A reload makes new claims before the old ones go; opening `/` meanwhile loses none."""
    with Claims() as first, Claims() as second:
        first.claim(str(tmp_path))
        first.claim(str(tmp_path))
        second.claim(str(tmp_path))
        os.listdir("/")
        refused = subprocess.run(
            [sys.executable, "-c", HOLD, str(tmp_path)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        assert str(os.getpid()).encode() in refused.stderr


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    """OSError: it is for the caller to wait for it."""
    with Claims() as claims, pytest.raises(FileNotFoundError):
        claims.claim(str(tmp_path / "none"))
