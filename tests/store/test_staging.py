"""A temporary file gets its name when it is whole, and else leaves nothing behind."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from pathlib import Path

import pytest

from lensd.errors import Failed
from lensd.store.fs import is_temporary
from lensd.store.staging import Temporary
from tests.store.conftest import RunPython


def test_a_temporary_holds_what_was_written(folder_fd: int) -> None:
    """Size and sha256 are those of the bytes; no other user can read it."""
    with Temporary(folder_fd) as new:
        for data in (b"", b"one", bytearray(9 * 2**20), bytearray(), memoryview(b"two")):
            new.write(data)
        sha256, size = new.sync()
        assert is_temporary(new.name)
        content = Path(new.path).read_bytes()
        mode = stat.S_IMODE(Path(new.path).stat().st_mode)
    assert content == b"one" + bytes(9 * 2**20) + b"two"
    assert (sha256, size) == (hashlib.sha256(content).hexdigest(), len(content))
    assert mode == 0o600


def test_a_renamed_temporary_stays(tmp_path: Path) -> None:
    """Under its new name, and the temporary name is gone."""
    with Temporary(str(tmp_path)) as new:
        new.write(b"x")
        new.rename("a")
    assert ["a"] == os.listdir(tmp_path)


def test_a_name_is_overwritten_only_on_request(tmp_path: Path) -> None:
    """Without `overwrite` the old file stays and the temporary is removed."""
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(FileExistsError), Temporary(str(tmp_path)) as new:
        new.rename("a")
    assert (tmp_path / "a").read_bytes() == b"old"
    with Temporary(str(tmp_path)) as new:
        new.rename("a", overwrite=True)
    assert (tmp_path / "a").read_bytes() == b""
    assert ["a"] == os.listdir(tmp_path)


def _sync_and_fail(folder: Path) -> None:
    with Temporary(str(folder)) as new:
        new.sync()
        raise TypeError


def test_a_temporary_that_was_not_renamed_is_removed(tmp_path: Path) -> None:
    """After an exception, and at the end of the block."""
    with pytest.raises(TypeError):
        _sync_and_fail(tmp_path)
    with Temporary(str(tmp_path)) as new:
        new.write(b"x")
    assert [] == os.listdir(tmp_path)


def test_another_file_under_the_temporary_name_stays(tmp_path: Path) -> None:
    """Only the file that was created is removed."""
    with Temporary(str(tmp_path), "a") as new:
        os.unlink(tmp_path / "a")
        (tmp_path / "a").write_bytes(b"another file")
        new.write(b"x")
    assert (tmp_path / "a").read_bytes() == b"another file"


@pytest.mark.parametrize("kind", ["file", "dangling link"])
def test_a_temporary_takes_no_existing_name(tmp_path: Path, kind: str) -> None:
    """Neither a file nor a link is followed or overwritten."""
    if kind == "file":
        (tmp_path / "a").write_bytes(b"old")
    else:
        (tmp_path / "a").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        Temporary(str(tmp_path), "a")
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.slow
def test_a_full_disk_is_named_and_left_clean(small_disk: Path) -> None:
    """ENOSPC is `no_space` with the disk's path, and the temporary is removed."""
    with (
        pytest.raises(Failed, match=str(small_disk)) as caught,
        Temporary(str(small_disk)) as new,
    ):
        new.write(bytes(2 * 2**20))
    assert caught.value.reason == "no_space"
    assert [] == os.listdir(small_disk)


def test_an_error_of_fsync_is_an_error_of_the_disk(tmp_path: Path, run_refused: RunPython) -> None:
    """EIO on fsync is `io_error`, and the temporary is removed."""
    script = """
import sys
from lensd.errors import Failed
from lensd.store.staging import Temporary
try:
    with Temporary(sys.argv[1]) as new:
        new.write(b"x")
        new.sync()
except Failed as error:
    print(error.reason)
"""
    done = run_refused(script, tmp_path, refused={"fsync": errno.EIO})
    assert done.stdout == "io_error\n"
    assert [] == os.listdir(tmp_path)
