"""Which files of a folder lensd looks at."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from lensd.store.walk import linked_folders
from lensd.watcher.scan import scan, temporaries
from tests.support.disks import Mounts
from tests.support.marks import needs_program, needs_root


def _all(_: str) -> bool:
    return True


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Files at the top and below, a linked folder, a linked file, and a temporary."""
    root = tmp_path / "root"
    for folder in ("b/inner", "a"):
        (root / folder).mkdir(parents=True)
    for name in ("z", "b/x", "b/inner/y", "a/w", "b/.lensd-job.tmp"):
        (root / name).write_bytes(b"1")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_bytes(b"1")
    (root / "linked").symlink_to(tmp_path / "outside")
    (root / "link").symlink_to(tmp_path / "outside" / "secret")
    (root / "dangling").symlink_to("nowhere")
    (root / "loop").symlink_to("loop")
    return root


def test_files_below_are_found_and_links_not_entered(root: Path) -> None:
    """Links to folders are named as what they are: links; temporaries are lensd's own."""
    found = [path for path, _ in scan(str(root), recursive=True, selects=_all)]
    assert found == ["dangling", "link", "linked", "loop", "z", "a/w", "b/x", "b/inner/y"]
    assert list(temporaries(str(root), recursive=True)) == ["b/.lensd-job.tmp"]
    assert list(linked_folders(str(root))) == ["linked"]


def test_only_the_top_where_that_is_asked_for(root: Path) -> None:
    """`recursive: false`."""
    found = [path for path, _ in scan(str(root), recursive=False, selects=lambda p: "l" not in p)]
    assert found == ["z"]
    assert list(temporaries(str(root), recursive=False)) == []


def test_identities_are_those_of_the_files(root: Path) -> None:
    """Of a link itself, not of what it points to."""
    for path, identity in scan(str(root), recursive=True, selects=_all):
        found = os.lstat(root / path)
        assert (identity.inode, identity.size) == (found.st_ino, found.st_size)


def test_a_root_that_is_not_there_is_not_empty(tmp_path: Path) -> None:
    """An unmounted disk must not look as if somebody had deleted all files."""
    with pytest.raises(OSError, match="No such file"):
        list(scan(str(tmp_path / "gone"), recursive=True, selects=_all))


@needs_root
def test_a_folder_that_lensd_may_only_list(tmp_path: Path) -> None:
    """Its files are left out, and those in other folders are found."""
    tmp_path.chmod(0o755)
    (tmp_path / "listed").mkdir()
    for name in ("a", "listed/b"):
        (tmp_path / name).touch()
    (tmp_path / "listed").chmod(0o444)
    working, folder_fd = os.getcwd(), os.open(tmp_path, os.O_RDONLY)  # above it only root may enter
    os.chdir(folder_fd)
    os.close(folder_fd)
    os.seteuid(65534)
    try:
        found = [path for path, _ in scan(".", recursive=True, selects=_all)]
    finally:
        os.seteuid(0)
        os.chdir(working)
    assert found == ["a"]


@needs_root
@needs_program("debugfs")
def test_a_file_with_a_damaged_inode(tmp_path: Path) -> None:
    """ext4 reports it with each stat; the files beside it are found."""
    root = tmp_path / "disk"
    with Mounts() as mounts:
        folder = mounts.made(root, "ext4", 16 * 2**20)
        for name in ("a", "b"):
            (folder / name).touch()
    clear = ["debugfs", "-w", "-R", "clri b", str(tmp_path / "disk.image")]
    subprocess.run(clear, check=True, capture_output=True)
    with Mounts() as mounts:
        folder = mounts.image(root, tmp_path / "disk.image")
        with pytest.raises(OSError, match="Structure needs cleaning"):
            (folder / "b").stat()
        found = [path for path, _ in scan(str(folder), recursive=False, selects=_all)]
    assert found == ["a"]
