"""Folders and names below a root: no link is entered, and temporaries are hidden."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensd.errors import Skipped
from lensd.store.archive.folders import mirror_back
from lensd.store.fs import (
    identity_at,
    is_temporary,
    new_token,
    open_folder,
    open_regular,
    temporary_name,
)
from lensd.store.identity import Identity
from tests.support.descriptors import Descriptors


def where(fd: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


@pytest.mark.parametrize("relative", ["", ".", "a", "a/b", "a//b/"])
def test_a_folder_below_a_root_is_opened(tmp_path: Path, relative: str) -> None:
    """The empty path is the root itself."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert where(open_folder(str(tmp_path), relative)) == str((tmp_path / relative).resolve())


def test_the_root_may_be_a_link(tmp_path: Path) -> None:
    """The user configured it; only links below it are refused."""
    (tmp_path / "real" / "a").mkdir(parents=True)
    (tmp_path / "root").symlink_to("real")
    assert where(open_folder(str(tmp_path / "root"), "a")) == str(tmp_path / "real" / "a")


@pytest.mark.parametrize("relative", ["link", "link/inner", "file", "file/inner"])
@pytest.mark.fault("links")
def test_a_folder_swapped_for_a_link_is_not_entered(tmp_path: Path, relative: str) -> None:
    """Neither to read nor to create a file in its target, and no descriptor leaks."""
    outside = tmp_path / "outside"
    (outside / "inner").mkdir(parents=True)
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(outside)
    (root / "file").write_bytes(b"")
    descriptors = Descriptors()
    for enter in (open_folder, lambda top, folder: mirror_back(top, folder, "/nowhere/x")):
        with pytest.raises(Skipped) as caught:
            enter(str(root), relative)
        assert caught.value.reason == "symlink"
    assert [] == descriptors.opened()
    assert list((outside / "inner").iterdir()) == []


@pytest.mark.parametrize("relative", ["..", "a/../..", "/etc", "a\0b"])
def test_a_path_out_of_the_root_is_a_bug(tmp_path: Path, relative: str) -> None:
    """ValueError: no caller may pass such a path."""
    with pytest.raises(ValueError, match="not a path below a root"):
        open_folder(str(tmp_path), relative)


def test_missing_folders_are_created(tmp_path: Path) -> None:
    """Also with names that are not UTF-8; a second call changes nothing."""
    name = os.fsdecode(b"caf\xe9\n")
    for _ in range(2):
        folder_fd = mirror_back(str(tmp_path), f"a/{name}", "/nowhere/x")
        assert where(folder_fd) == str(tmp_path / "a" / name)


def test_a_missing_folder_is_not_found(tmp_path: Path) -> None:
    """A missing root is never created: its disk may not be mounted."""
    with pytest.raises(FileNotFoundError):
        open_folder(str(tmp_path), "a")
    with pytest.raises(FileNotFoundError):
        mirror_back(str(tmp_path / "gone"), "a", "/nowhere/x")
    assert not (tmp_path / "gone").exists()


@pytest.mark.parametrize(
    ("kind", "reason"), [("link", "symlink"), ("fifo", "not_regular"), ("folder", "not_regular")]
)
def test_only_regular_files_are_opened(
    tmp_path: Path, folder_fd: int, kind: str, reason: str
) -> None:
    """A FIFO does not block lensd, and a link is not followed."""
    path = tmp_path / "x"
    if kind == "link":
        path.symlink_to("/etc/passwd")
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
    with pytest.raises(Skipped) as caught:
        open_regular(folder_fd, "x")
    assert caught.value.reason == reason


def test_the_identity_under_a_name(tmp_path: Path, folder_fd: int) -> None:
    """A link has its own identity; a free name has None."""
    (tmp_path / "a").symlink_to("/etc/passwd")
    assert identity_at(folder_fd, "a") == Identity.of(os.lstat(tmp_path / "a"))
    assert identity_at(folder_fd, "b") is None


@given(st.text("abcXYZ019_-", min_size=1, max_size=64))
def test_temporary_names_are_hidden(token: str) -> None:
    """They start with a dot, are short, have no suffix of a model, and lensd recognises them."""
    name = temporary_name(token)
    assert name == f".lensd-{token}.tmp"
    assert len(name) < 80
    assert is_temporary(name)


def test_tokens_differ() -> None:
    """A hundred tokens are different."""
    assert len({temporary_name(new_token()) for _ in range(100)}) == 100


@pytest.mark.parametrize("token", ["", "a/b", "..", "a\n", "é", "x" * 65])
def test_no_token_is_a_path(token: str) -> None:
    """Slashes, dots, newlines and long names are refused."""
    with pytest.raises(ValueError, match="not a token"):
        temporary_name(token)


@pytest.mark.parametrize(
    "name", ["a.safetensors", ".lensd-.tmp", ".lensd-a.tmp\n", "x.lensd-a.tmp", ".lensd-a.tmp.part"]
)
def test_other_names_are_not_temporaries(name: str) -> None:
    """So no clean-up removes them."""
    assert not is_temporary(name)
