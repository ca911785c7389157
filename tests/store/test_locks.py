"""One lensd per folder, with locks of real processes."""

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
    """The id of another process that locks a folder."""
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process.pid
        finally:
            process.kill()


def test_a_folder_locked_by_another_process(tmp_path: Path) -> None:
    """The error names the process; the folder is free after the process ends in any way."""
    with Claims() as claims:
        with holder(tmp_path) as pid, pytest.raises(LockedError, match=rf"process {pid}\b"):
            claims.claim(str(tmp_path))
        claims.claim(str(tmp_path))


def test_through_a_link(tmp_path: Path) -> None:
    """The lock is on the folder and not on its path."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    with holder(tmp_path / "link"), Claims() as claims, pytest.raises(LockedError):
        claims.claim(str(tmp_path / "folder"))


def test_other_folders_are_free(tmp_path: Path) -> None:
    """Two daemons may watch two folders side by side."""
    (tmp_path / "folder").mkdir()
    with holder(tmp_path / "folder"), Claims() as claims:
        claims.claim(str(tmp_path))


def test_one_process_may_claim_again(tmp_path: Path) -> None:
    """A reload locks again before it unlocks; an open and close of `/` drops no lock."""
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


def test_a_missing_folder(tmp_path: Path) -> None:
    """Locking it raises OSError."""
    with Claims() as claims, pytest.raises(FileNotFoundError):
        claims.claim(str(tmp_path / "none"))
