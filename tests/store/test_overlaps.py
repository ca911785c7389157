"""Two folders that show the same files through bind mounts are found, whatever their paths."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lensd.store import own_folders
from lensd.store.mounts import read_mounts
from lensd.store.overlaps import find_overlap, lies_in
from lensd.store.walk import walk
from tests.support.archive_disks import ArchiveMounts

pytestmark = pytest.mark.slow


@pytest.fixture
def mounts() -> Iterator[ArchiveMounts]:
    with ArchiveMounts() as mounts:
        yield mounts


@pytest.fixture
def top(mounts: ArchiveMounts, tmp_path: Path) -> Path:
    """A disk with a watched folder and an archive."""
    top = mounts.tmpfs(tmp_path / "srv")
    for folder in ("loras/styles", "archive/loras/styles", "state"):
        (top / folder).mkdir(parents=True)
    return top


def overlap(a: Path, b: Path) -> str | None:
    return find_overlap(str(a), str(b), read_mounts())


def test_folders_apart(mounts: ArchiveMounts, top: Path, tmp_path: Path) -> None:
    """Also with mounts that show other folders."""
    assert overlap(top / "loras", top / "archive") is None
    mounts.bind(top / "state", top / "loras/other")
    mounts.tmpfs(top / "loras/memory")
    mounts.bind(top / "loras", tmp_path / "second")
    assert overlap(top / "loras", top / "archive") is None
    assert overlap(tmp_path / "second", top / "archive") is None
    assert overlap(top / "loras", top / "not-there") is None


@pytest.mark.parametrize("source", ["archive", "archive/loras", "archive/loras/styles", "."])
def test_the_archive_below_a_watched_folder(mounts: ArchiveMounts, top: Path, source: str) -> None:
    """All of it, one of its folders, or a folder above it."""
    shown = mounts.bind(top / source, top / "loras/shown")
    assert overlap(top / "loras", top / "archive") == str(shown)
    inside = shown / os.path.relpath(top / "archive/loras/styles", top / source)
    for folder, expected in ((inside, True), (top / "loras/styles", False)):
        fd = os.open(folder, os.O_RDONLY)
        assert lies_in(fd, str(top / "archive"), read_mounts()) is expected
        os.close(fd)


def test_a_watched_folder_below_the_archive(mounts: ArchiveMounts, top: Path) -> None:
    """lensd would sweep its temporaries there."""
    mounts.bind(top / "loras", top / "archive/loras/styles")
    assert overlap(top / "loras", top / "archive") == str(top / "loras")


def test_one_folder_under_two_paths(mounts: ArchiveMounts, top: Path, tmp_path: Path) -> None:
    """Both are watched."""
    one = mounts.bind(top / "loras", tmp_path / "one")
    two = mounts.bind(top / "loras/styles", tmp_path / "two")
    assert overlap(one, two) == str(one)
    assert overlap(two, one) == str(two)


def test_a_mount_that_is_hidden_shows_nothing(mounts: ArchiveMounts, top: Path) -> None:
    """Another disk is mounted over it."""
    mounts.bind(top / "archive", top / "loras/shown")
    mounts.tmpfs(top / "loras/shown")
    assert overlap(top / "loras", top / "archive") is None


def test_no_walk_enters_the_archive(mounts: ArchiveMounts, top: Path) -> None:
    """Wherever it is mounted."""
    mounts.bind(top / "archive", top / "loras/shown")
    own_folders.note_all([str(top / "archive"), str(top / "gone")])
    try:
        found = walk(str(top / "loras"), recursive=True, wanted=lambda *_: True)
        assert [folder.path for folder in found] == ["", "styles/"]
    finally:
        own_folders.note_all([])
