"""What the kernel watches, against what is there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lensd.daemon.inbox import Inbox
from lensd.watcher import inotify_audit, root_identity
from lensd.watcher.inotify_audit import Audit
from lensd.watcher.observer import Observer

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
def watching(root: Path, *, recursive: bool = True) -> Iterator[Observer]:
    observer = Observer(Inbox())
    try:
        observer.add(str(root), recursive=recursive)
        yield observer
    finally:
        observer.stop()


def audit(observer: Observer, root: Path, *, recursive: bool = True) -> Audit:
    device = root_identity.probe(str(root)).device
    descriptor = observer.descriptor(str(root))
    nodes = set() if descriptor is None else inotify_audit.watched(descriptor)
    return inotify_audit.audit(str(root), device, nodes, recursive=recursive)


def test_an_audit(tmp_path: Path) -> None:
    """Every folder, or the root alone; a link to a folder is none."""
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    with watching(tmp_path) as observer:
        assert Audit(3, []) == audit(observer, tmp_path)
        assert Audit(2, None) == audit(observer, tmp_path / "a")
    with watching(tmp_path, recursive=False) as observer:
        assert Audit(1, []) == audit(observer, tmp_path, recursive=False)
        assert Audit(3, ["a", "a/b"]) == audit(observer, tmp_path)
