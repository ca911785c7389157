"""A read lease notifies lensd of writers and does not delay them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lensd.store.lease import LEASE_SIGNAL, Lease, Refusal
from lensd.store.rename import exchange
from tests.store.conftest import RunPython
from tests.support.limits import LEASE_IS_RELEASED, PATIENCE

# Each prints how long the kernel blocked it.
WRITE = "open(sys.argv[1], 'r+b').write(b'theirs')"
TRUNCATE = "os.truncate(sys.argv[1], 1)"
READ = "open(sys.argv[1], 'rb').read()"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "f").write_bytes(b"original")
    return tmp_path / "f"


@pytest.fixture
def fd(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY)
    probe = Lease.take(fd)
    if isinstance(probe, Refusal):
        pytest.skip("this filesystem grants no leases")
    probe.release()
    yield fd
    os.close(fd)


def take(fd: int) -> Lease:
    lease = Lease.take(fd)
    assert isinstance(lease, Lease)
    return lease


def seconds(run_python: RunPython, action: str, path: Path) -> float:
    script = f"import os, sys, time; t = time.monotonic(); {action}; print(time.monotonic() - t)"
    return float(run_python(script, path).stdout)


def lease_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "lease"]


@pytest.mark.parametrize("action", [WRITE, TRUNCATE])
def test_a_writer_gets_through_and_is_noticed(
    path: Path, fd: int, run_python: RunPython, action: str
) -> None:
    """It waits less than the kernel lets it wait, and the lease stays marked as broken."""
    with take(fd) as lease:
        assert seconds(run_python, action, path) < LEASE_IS_RELEASED
        assert lease.broken
        assert not lease.held
    assert lease.broken
    assert path.read_bytes() != b"original"


def test_a_writer_gets_through_when_the_signal_is_lost(
    path: Path, fd: int, run_python: RunPython
) -> None:
    """If a debugger received the signal, polling finds the writer."""
    with take(fd) as lease:
        thief = threading.Thread(target=signal.sigtimedwait, args=([LEASE_SIGNAL], 0.5))
        thief.start()
        assert seconds(run_python, WRITE, path) < LEASE_IS_RELEASED
        assert lease.broken
        thief.join()


def test_readers_break_nothing(path: Path, fd: int, run_python: RunPython) -> None:
    """Neither does stat, link, rename or chmod; and no signal is left pending."""
    with take(fd) as lease:
        seconds(run_python, READ, path)
        os.link(path, path.with_name("link"))
        path.rename(path.with_name("renamed"))
        path.with_name("renamed").chmod(0o600)
        assert lease.held
    assert not lease.broken
    assert LEASE_SIGNAL not in signal.sigpending()


def test_a_lease_survives_link_and_exchange(
    path: Path, fd: int, folder_fd: int, run_python: RunPython
) -> None:
    """It belongs to the inode: a writer by any of its names breaks it."""
    staged = path.with_name("staged")
    staged.write_bytes(b"new")
    with take(fd) as lease:
        os.link(path, path.with_name("archived"))
        exchange(folder_fd, "f", "staged")
        seconds(run_python, WRITE, path)  # now the staged file has the name
        assert lease.held
        seconds(run_python, WRITE, staged)
        assert lease.broken


@pytest.mark.lengthy
def test_an_open_writer_refuses_the_lease(path: Path, fd: int) -> None:
    """In another process or in this one; after the close it is granted."""
    script = "import sys, time; f = open(sys.argv[1], 'r+b'); print(flush=True); time.sleep(60)"
    command = [sys.executable, "-c", script, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        assert Lease.take(fd) is Refusal.OPEN_WRITER
        writer.kill()
    with path.open("r+b"):
        assert Lease.take(fd) is Refusal.OPEN_WRITER
    with take(fd) as lease:
        assert lease.held


def test_some_files_have_no_leases(run_python: RunPython, fd: int) -> None:
    """Devices, and files of other users."""
    null = os.open(os.devnull, os.O_RDONLY)
    try:
        assert Lease.take(null) is Refusal.UNAVAILABLE
    finally:
        os.close(null)
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    script = """
import os, sys
from lensd.store.lease import Lease, block_lease_signal
os.setgroups([]); os.setgid(65534); os.setuid(65534)
block_lease_signal()
print(Lease.take(int(sys.argv[1])))
"""
    assert run_python(script, fd, pass_fds=(fd,)).stdout == "Refusal.UNAVAILABLE\n"


def test_the_lease_does_not_depend_on_the_callers_descriptor(
    path: Path, run_python: RunPython, fd: int
) -> None:
    """The caller may close it early."""
    own = os.dup(fd)
    lease = take(own)
    os.close(own)
    assert lease.held
    seconds(run_python, WRITE, path)
    assert lease.broken
    lease.release()


def test_release_takes_effect_at_once_and_may_be_repeated(
    path: Path, fd: int, run_python: RunPython
) -> None:
    """A later writer does not break the lease."""
    lease = take(fd)
    lease.release()
    lease.release()
    assert seconds(run_python, WRITE, path) < LEASE_IS_RELEASED
    assert not lease.broken


def test_one_thread_while_there_is_a_lease_and_none_after(tmp_path: Path, fd: int) -> None:
    """It serves all leases and ends with the last one."""
    (tmp_path / "g").write_bytes(b"x")
    other = os.open(tmp_path / "g", os.O_RDONLY)
    with take(fd), take(other):
        assert lease_threads() == ["lease"]
    os.close(other)
    deadline = time.monotonic() + PATIENCE
    while lease_threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert lease_threads() == []
    with take(fd):
        assert lease_threads() == ["lease"]


def test_a_broken_lease_leaves_the_others(
    tmp_path: Path, path: Path, fd: int, run_python: RunPython
) -> None:
    """Each lease is on its own file."""
    (tmp_path / "g").write_bytes(b"x")
    other = os.open(tmp_path / "g", os.O_RDONLY)
    with take(fd) as broken, take(other) as whole:
        seconds(run_python, WRITE, path)
        assert (broken.broken, whole.broken) == (True, False)
        assert whole.held
    os.close(other)


def test_no_lease_without_the_blocked_signal(run_python: RunPython, path: Path) -> None:
    """RuntimeError: the signal would kill the process."""
    script = """
import os, signal, sys
from lensd.store.lease import LEASE_SIGNAL, Lease
signal.pthread_sigmask(signal.SIG_UNBLOCK, [LEASE_SIGNAL])  # a child inherits the mask
try:
    Lease.take(os.open(sys.argv[1], os.O_RDONLY))
except RuntimeError as error:
    print(error)
"""
    assert "block_lease_signal" in run_python(script, path).stdout
