"""Links and folders swapped for links: nothing outside the watched folders is written."""

from __future__ import annotations

import os
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lensd.store.rename import exchange
from tests.support.home_server import HomeServer, Seen, wait_until
from tests.support.marks import needs_root

FILES = 20
SWAPS = 1000  # at least; a few seconds, in which jobs begin and end


def _tree(folder: Path) -> dict[str, tuple[int, int, int, int]]:
    """Every name below, with what any write would change."""
    found = {}
    for path in [folder, *folder.rglob("*")]:
        at = path.lstat()
        found[str(path)] = (at.st_ino, at.st_size, at.st_mtime_ns, at.st_ctime_ns)
    return found


@contextmanager
def _swapping(folder_fd: int, one: str, other: str) -> Iterator[None]:
    """The two names change places SWAPS times or more; at the end they are as they were."""
    over = threading.Event()
    swaps = 0

    def swap() -> None:
        nonlocal swaps
        while not over.is_set() or swaps % 2 or swaps < SWAPS:
            exchange(folder_fd, one, other)
            swaps += 1
            over.wait(0.001 * (swaps % 7))

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert swaps >= SWAPS


@pytest.mark.slow
@pytest.mark.fault("links")
def test_a_folder_that_is_swapped_for_a_link_all_the_time(server: HomeServer) -> None:
    """The link leads to files of the same names: they stay as they are, and so does all beside.

    When the swapping is over, every file of the real folder is compressed.
    """
    outside = server.elsewhere / "outside"
    outside.mkdir()
    real, link = server.loras / "set", server.loras / "link"
    real.mkdir()
    link.symlink_to(outside)
    for n in range(FILES):
        server.make(f"outside/{n}.safetensors", seed=100 + n)
    before = _tree(outside)
    originals = {}
    server.configure(settle={"rescan_seconds": 0.5})
    folder_fd = os.open(server.loras, os.O_RDONLY)
    real_fd = os.open(real, os.O_RDONLY)
    try:
        with server.daemon() as daemon:
            daemon.wait_for_event("daemon.ready")
            with _swapping(folder_fd, "set", "link"):
                for n in range(FILES):
                    made = server.make(f"{n}.safetensors", seed=n).path
                    originals[real / made.name] = Seen.of(made).sha256
                    os.rename(made, made.name, dst_dir_fd=real_fd)
                    daemon.wait_for_event("file.detected")
            wait_until(
                lambda: all(_is_smaller(p, before[str(outside / p.name)][1]) for p in originals),
                "all are compressed",
            )
            assert daemon.stop() == 0
    finally:
        os.close(folder_fd)
        os.close(real_fd)
    assert before == _tree(outside)
    archived = [Seen.of(p).sha256 for p in server.archive.rglob("*.safetensors")]
    assert set(originals.values()) <= set(archived)
    assert server.temporaries() == []


def _is_smaller(path: Path, size: int) -> bool:
    return path.stat().st_size < 0.9 * size


@pytest.mark.slow
@pytest.mark.fault("links")
def test_a_folder_that_is_moved_out_during_the_job(server: HomeServer) -> None:
    """It is not the watched folder's any more: nothing in it is replaced, and lensd goes on."""
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        first = server.drop("first.safetensors", seed=1).path
        pid = daemon.wait_for_event("worker.started")["pid"]
        daemon.wait_for_file(first, "file.compressed")
        os.kill(pid, 19)
        path = server.drop("set/style.safetensors", seed=2).path
        before = Seen.of(path)
        daemon.wait_for_file(path, "file.settled")
        wait_until(lambda: bool(server.temporaries()), "the job runs")
        away = server.elsewhere / "set"
        path.parent.rename(away)
        path.parent.symlink_to(away)
        os.kill(pid, 18)
        line = daemon.wait_for_file(path)
        assert (line["event"], line["reason"]) == ("file.skipped", "vanished")
        good = server.drop("good.safetensors", seed=3).path
        assert daemon.wait_for_file(good)["event"] == "file.compressed"
    assert Seen.of(away / path.name) == before
    assert [p.name for p in away.iterdir()] == [path.name]


def _make_socket(path: Path) -> None:
    """Under a path of any length, while the system call takes 107 bytes."""
    folder = os.open(path.parent, os.O_PATH)
    try:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)


@pytest.mark.fault("links")
@needs_root
def test_what_is_no_file_is_left_alone(server: HomeServer) -> None:
    """A pipe, a socket, devices, dangling and circular links, a second name: one line each."""
    made = {name: server.loras / f"{name}.safetensors" for name in
            ("pipe", "socket", "null", "disk", "dangling", "circle", "hardlink")}  # fmt: skip
    with server.daemon(forked=True) as daemon:
        daemon.wait_for_event("daemon.ready")
        os.mkfifo(made["pipe"])
        _make_socket(made["socket"])
        os.mknod(made["null"], stat.S_IFCHR | 0o600, os.makedev(1, 3))
        os.mknod(made["disk"], stat.S_IFBLK | 0o600, os.makedev(7, 0))
        made["dangling"].symlink_to("nowhere")
        made["circle"].symlink_to(made["circle"])
        other = server.make("other.safetensors", seed=1).path
        os.link(other, made["hardlink"])
        before = _tree(server.loras), Seen.of(other)
        lines = daemon.wait_for_files(made.values(), "file.skipped")
        reasons = {path.stem: line["reason"] for path, line in lines.items()}
        good = server.make("good.safetensors", seed=2).path
        assert before == (_tree(server.loras), Seen.of(other))
        daemon.wait_for_file(server.move_in(good), "file.compressed")
    assert reasons == {
        **dict.fromkeys(("pipe", "socket", "null", "disk"), "not_regular"),
        **dict.fromkeys(("dangling", "circle"), "symlink"),
        "hardlink": "hardlinked",
    }
