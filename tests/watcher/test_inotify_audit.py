"""What the kernel watches, against what is there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lensd.watcher import inotify_audit, root_identity
from lensd.watcher.inotify import Watcher
from lensd.watcher.inotify_audit import Coverage

LINES = """pos:\t0
flags:\t02004000
inotify wd:2 ino:aa81f0 sdev:fe00000 mask:fff ignored_mask:0 fhandle-bytes:8 f_handle:f081aa00
inotify wd:1 ino:2 sdev:700003 mask:3c6 ignored_mask:0
"""


def test_lines_of_fdinfo() -> None:
    """Twelve bits of major, twenty of minor number."""
    assert [((254, 0), 0xAA81F0), ((7, 3), 2)] == list(inotify_audit.parse(LINES.splitlines()))


@pytest.mark.parametrize(
    ("limit", "namespaced", "setting"),
    [
        (50, 2**31 - 1, "fs.inotify.max_user_watches=8192"),
        (192536, 192536, "fs.inotify.max_user_watches=262144"),
        (192536, 50, "user.max_inotify_watches=8192"),
        (None, None, "fs.inotify.max_user_watches=8192"),
        (None, 50, "user.max_inotify_watches=8192"),
    ],
)
def test_the_setting(limit: int | None, namespaced: int | None, setting: str) -> None:
    """That of the container where it is the tighter one; there is room for twice what lacks."""
    assert setting == inotify_audit.remedy(150, 200, limit, namespaced)
    assert inotify_audit.enough(10_000, 9_000) >= 28_000


@contextmanager
def watching(root: Path, *, recursive: bool = True) -> Iterator[Watcher]:
    watcher = Watcher(lambda _: None, lambda _: None, lambda: None)
    try:
        watcher.add(str(root), recursive=recursive)
        yield watcher
    finally:
        watcher.stop()


def audit(watcher: Watcher, root: Path, *, recursive: bool = True) -> Coverage:
    device = root_identity.probe(str(root)).device
    nodes = inotify_audit.watched(watcher.inotify)
    return inotify_audit.audit(str(root), device, nodes, recursive=recursive)


def test_an_audit(tmp_path: Path) -> None:
    """Every folder, or the root alone; a link to a folder is none."""
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    with watching(tmp_path) as watcher:
        assert Coverage(3, []) == audit(watcher, tmp_path)
    with watching(tmp_path, recursive=False) as watcher:
        assert Coverage(1, []) == audit(watcher, tmp_path, recursive=False)
        assert Coverage(3, ["a", "a/b"]) == audit(watcher, tmp_path)
        assert Coverage(1, None) == audit(watcher, tmp_path / "a/b")


def test_a_stopped_watcher_leaves_nothing(tmp_path: Path) -> None:
    """No descriptor, and another one can be made."""
    before = len(os.listdir("/proc/self/fd"))
    with watching(tmp_path) as watcher:
        pass
    assert not watcher.alive
    assert before == len(os.listdir("/proc/self/fd"))
    with watching(tmp_path) as second:
        assert second.alive
