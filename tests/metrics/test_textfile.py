"""lensd.metrics.textfile: replace the file that node_exporter reads."""

from __future__ import annotations

import errno
import os
import resource
import signal
import stat
import threading
from pathlib import Path

import pytest

from lensd.metrics import textfile


def test_readers_never_see_half_of_it(tmp_path: Path) -> None:
    """It is replaced many times while it is read, and leaves no other file in the folder."""
    path = tmp_path / "lensd.prom"
    contents = [bytes([97 + number]) * 300_000 for number in range(3)]
    textfile.replace(str(path), contents[0])
    done = threading.Event()

    def write() -> None:
        for number in range(200):
            textfile.replace(str(path), contents[number % 3])
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    seen = set()
    while not done.is_set():
        seen.add(path.read_bytes())
    thread.join()
    assert seen <= set(contents)
    assert os.listdir(tmp_path) == ["lensd.prom"]


def test_everybody_may_read_it_whatever_the_umask(tmp_path: Path) -> None:
    """node_exporter runs as another user, and systemd gives lensd a umask of 0027."""
    before = os.umask(0o077)
    try:
        textfile.replace(str(tmp_path / "a.prom"), b"x 1\n")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.prom").stat().st_mode) == 0o644


def test_a_disk_without_space_keeps_the_old_one(tmp_path: Path) -> None:
    """No other file is left in the folder."""
    path = tmp_path / "a.prom"
    textfile.replace(str(path), b"x 1\n")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            textfile.replace(str(path), b"x" * 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == b"x 1\n"
    assert os.listdir(tmp_path) == ["a.prom"]


def test_a_temporary_of_a_killed_process_is_replaced(tmp_path: Path) -> None:
    """If it is a link, the target of the link stays unchanged."""
    other = tmp_path / "other"
    other.write_text("mine")
    (tmp_path / ".a.prom.tmp").symlink_to(other)
    textfile.replace(str(tmp_path / "a.prom"), b"x 1\n")
    assert other.read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == ["a.prom", "other"]


def test_a_missing_folder_raises_the_error_of_the_system(tmp_path: Path) -> None:
    """It is ENOENT."""
    with pytest.raises(OSError, match="No such file") as caught:
        textfile.replace(str(tmp_path / "gone/a.prom"), b"")
    assert caught.value.errno == errno.ENOENT
