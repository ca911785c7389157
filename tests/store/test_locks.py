"""One lensd per folder, with locks of real processes."""

from __future__ import annotations

import fcntl
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lensd.errors import LockedError, StorageError
from lensd.store import locks
from lensd.store.locks import Claims, StateLock

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


@pytest.mark.lengthy  # as others below: it starts a process
def test_a_folder_locked_by_another_process(tmp_path: Path) -> None:
    """The error names the process; the folder is free after the process ends in any way."""
    with Claims() as claims:
        with holder(tmp_path) as pid, pytest.raises(LockedError, match=rf"process {pid}\b"):
            claims.claim(str(tmp_path))
        claims.claim(str(tmp_path))


@pytest.mark.lengthy
def test_through_a_link(tmp_path: Path) -> None:
    """The lock is on the folder and not on its path."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    with holder(tmp_path / "link"), Claims() as claims, pytest.raises(LockedError):
        claims.claim(str(tmp_path / "folder"))


@pytest.mark.lengthy
def test_other_folders_are_free(tmp_path: Path) -> None:
    """Two daemons may watch two folders side by side."""
    (tmp_path / "folder").mkdir()
    with holder(tmp_path / "folder"), Claims() as claims:
        claims.claim(str(tmp_path))


@pytest.mark.lengthy
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


def test_a_look_at_the_lock_keeps_nobody_out(tmp_path: Path) -> None:
    """`lensd status` has the lock for a moment; a daemon that starts then waits for it."""
    with StateLock(str(tmp_path)):
        pass
    fd = os.open(tmp_path / "lock", os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_SH)
    threading.Timer(0.02, os.close, [fd]).start()
    with StateLock(str(tmp_path)):
        assert locks.holder(str(tmp_path)) == os.getpid()
        with pytest.raises(LockedError, match=f"process {os.getpid()}"):
            StateLock(str(tmp_path))
    assert locks.holder(str(tmp_path)) is None


def test_a_state_folder_on_a_full_disk(tmp_path: Path) -> None:
    """The error names the folder; the lock is free."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        with pytest.raises(StorageError, match=f"{tmp_path} cannot be used"):
            StateLock(str(tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    with StateLock(str(tmp_path)):
        pass
