"""Names are exchanged in one step and never overwritten, on any filesystem."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from lensd.store.rename import exchange, move_onto_free_name, rename_noreplace
from tests.store.conftest import RunPython

MOVE = """
import os, sys
from lensd.store.rename import NotSupported, exchange, move_onto_free_name
fd = os.open(sys.argv[1], os.O_RDONLY)
try:
    exchange(fd, "a", "b")
except NotSupported:
    print("no exchange")
try:
    move_onto_free_name(fd, "a", fd, "b")
except FileExistsError:
    print("taken")
move_onto_free_name(fd, "a", fd, "c")
"""


def test_two_names_are_exchanged(tmp_path: Path, folder_fd: int) -> None:
    """Each name has the bytes of the other."""
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "b").write_bytes(b"2")
    exchange(folder_fd, "a", "b")
    assert ((tmp_path / "a").read_bytes(), (tmp_path / "b").read_bytes()) == (b"2", b"1")
    with pytest.raises(FileNotFoundError):
        exchange(folder_fd, "a", "nothing")


@pytest.mark.parametrize("rename", [rename_noreplace, move_onto_free_name])
def test_an_existing_name_is_not_overwritten(
    tmp_path: Path, folder_fd: int, rename: object
) -> None:
    """A free name is taken."""
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "b").write_bytes(b"2")
    assert callable(rename)
    with pytest.raises(FileExistsError):
        rename(folder_fd, "a", folder_fd, "b")
    rename(folder_fd, "a", folder_fd, "c")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"b": b"2", "c": b"1"}


@pytest.mark.parametrize("refused", [["renameat2"], ["renameat2", "linkat"]])
@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSYS])
def test_without_renameat2_nothing_is_overwritten_either(
    tmp_path: Path, run_refused: RunPython, refused: list[str], code: int
) -> None:
    """By a link, or without hard links by a reserved name."""
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "b").write_bytes(b"2")
    done = run_refused(MOVE, tmp_path, refused=dict.fromkeys(refused, code))
    assert done.stdout == "no exchange\ntaken\n"
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"b": b"2", "c": b"1"}
