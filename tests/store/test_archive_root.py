"""The archive is one open folder: what is unmounted or replaced meanwhile is away, not empty."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from lensd.errors import DiskUnavailable
from lensd.store.archive import Archive
from tests.store.test_archive import NAME, all_files, keep, write
from tests.support.descriptors import Descriptors
from tests.support.disks import Mounts


def test_an_archive_that_is_replaced_meanwhile_is_away(tmp_path: Path) -> None:
    """Nothing goes to the folder that has the name now."""
    (tmp_path / "archive").mkdir()
    archive = Archive(str(tmp_path / "archive"))
    source = write(tmp_path / "x", b"original")
    with archive.hold():
        (tmp_path / "archive").rename(tmp_path / "moved")
        with pytest.raises(DiskUnavailable, match="was unmounted or replaced") as caught:
            keep(archive, source)
        (tmp_path / "archive").mkdir()
        with pytest.raises(DiskUnavailable, match="was unmounted or replaced"):
            keep(archive, source)
        assert caught.value.path == archive.root
    assert all_files(tmp_path / "archive") == all_files(tmp_path / "moved") == {}
    keep(archive, source)
    assert all_files(archive.root) == {f"loras/{NAME}": b"original"}


@pytest.mark.slow
def test_an_archive_that_is_unmounted_meanwhile_is_away(tmp_path: Path) -> None:
    """The empty mount point gets no file, and the other parts work with the open folder."""
    with Mounts() as mounts:
        folder = mounts.tmpfs(tmp_path / "archive")
        archive = Archive(str(folder))
        source = write(tmp_path / "x", b"original")
        kept = keep(archive, source)
        folder_fd = os.open(tmp_path, os.O_RDONLY)
        with archive.hold():
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
            with pytest.raises(DiskUnavailable):
                keep(archive, write(tmp_path / "x", b"newer"))
            assert archive.originals.has(kept.path)
            archive.rescuer.move(folder_fd, "x", "loras", NAME)
            assert list(folder.iterdir()) == []
        os.close(folder_fd)
        assert archive.originals.find("loras", NAME) is None
        mounts._mounted.clear()


def test_the_root_is_closed_after_the_last_use(tmp_path: Path) -> None:
    """Else its disk could not be unmounted."""
    archive = Archive(str(tmp_path))
    descriptors = Descriptors()
    with archive.hold() as outer, archive.hold() as inner:
        assert outer == inner
        archive.originals.find("loras", NAME)
    assert [] == descriptors.opened()


def test_an_archive_that_cannot_be_opened_is_away(tmp_path: Path) -> None:
    """As after the end of a FUSE server, or without the right to enter it."""
    (tmp_path / "archive").symlink_to("archive")
    archive = Archive(str(tmp_path / "archive"))
    with pytest.raises(DiskUnavailable, match=r"archive cannot be opened \(Too many levels"):
        archive.originals.find("loras", NAME)
