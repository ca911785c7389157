"""Tensor bytes in, staged files out: nothing half-written keeps a name."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from pathlib import Path

import pytest

from lensd.errors import Failed, Skipped
from lensd.store.disk_errors import Interrupted
from lensd.store.header import encode_header, read_header
from lensd.store.tensors import StagedWriter, read_into, sha256_of
from tests.store.conftest import RunPython


def test_a_tensor_is_read_from_its_place(tmp_path: Path) -> None:
    """Only the tensor's own bytes come, also for one without elements."""
    tensors = [("a", "U8", (3,)), ("none", "F32", (0, 4)), ("b", "I16", (2,))]
    path = tmp_path / "f"
    path.write_bytes(encode_header(tensors, {}) + b"abcDEFG")
    with path.open("rb") as file:
        header = read_header(file.fileno(), path.stat().st_size)
        read = {name: bytearray(t.end - t.start) for name, t in header.tensors.items()}
        for name, data in read.items():
            read_into(memoryview(data), file.fileno(), header, name)
    assert read == {"a": b"abc", "none": b"", "b": b"DEFG"}


def test_a_file_that_shrinks_is_truncated_and_no_crash(tmp_path: Path) -> None:
    """Somebody truncates the file between the header and the read."""
    path = tmp_path / "f"
    path.write_bytes(encode_header([("a", "U8", (10_000,))], {}) + bytes(10_000))
    with path.open("rb") as file:
        header = read_header(file.fileno(), path.stat().st_size)
        os.truncate(path, 5_000)
        with pytest.raises(Skipped) as caught:
            read_into(memoryview(bytearray(10_000)), file.fileno(), header, "a")
    assert caught.value.reason == "truncated"


def test_a_staged_file_holds_what_was_written(tmp_path: Path, folder_fd: int) -> None:
    """Size and sha256 are those of the bytes; nobody else can read it before it has its mode."""
    with StagedWriter(folder_fd, ".lensd-1.tmp") as staged:
        for data in (b"", b"one", bytearray(9 * 2**20), bytearray(), memoryview(b"two")):
            staged.write(data)
        sha256, size = staged.finish()
    content = (tmp_path / ".lensd-1.tmp").read_bytes()
    assert content == b"one" + bytes(9 * 2**20) + b"two"
    assert (sha256, size) == (hashlib.sha256(content).hexdigest(), len(content))
    assert stat.S_IMODE((tmp_path / ".lensd-1.tmp").stat().st_mode) == 0o600


def _finish_and_fail(folder: Path) -> None:
    with StagedWriter(str(folder), "a") as staged:
        staged.finish()
        raise TypeError


def test_an_unfinished_staged_file_goes(tmp_path: Path) -> None:
    """By an exception, also after finish, and by forgetting to finish."""
    with pytest.raises(TypeError):
        _finish_and_fail(tmp_path)
    with StagedWriter(str(tmp_path), "b") as staged:
        staged.write(b"x")
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_somebody_elses_by_now_is_left(tmp_path: Path) -> None:
    """The clean-up removes its own file only."""
    with StagedWriter(str(tmp_path), "a") as staged:
        os.unlink(tmp_path / "a")
        (tmp_path / "a").write_bytes(b"theirs")
        staged.write(b"x")
    assert (tmp_path / "a").read_bytes() == b"theirs"


@pytest.mark.parametrize("kind", ["file", "dangling link"])
def test_a_staged_file_takes_no_name_that_is_there(tmp_path: Path, kind: str) -> None:
    """Neither a file nor a planted link is followed or overwritten."""
    if kind == "file":
        (tmp_path / "a").write_bytes(b"old")
    else:
        (tmp_path / "a").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        StagedWriter(str(tmp_path), "a")
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.slow
def test_a_full_disk_is_named_and_left_clean(small_disk: Path) -> None:
    """ENOSPC is `no_space` with the disk's path, and the temporary is gone."""
    with (
        pytest.raises(Failed, match=str(small_disk)) as caught,
        StagedWriter(str(small_disk), "a") as staged,
    ):
        staged.write(bytes(2 * 2**20))
    assert caught.value.reason == "no_space"
    assert list(small_disk.iterdir()) == []


def test_an_error_of_fsync_is_an_error_of_the_disk(tmp_path: Path, run_refused: RunPython) -> None:
    """EIO on fsync is `io_error`, and the temporary is gone."""
    script = """
import sys
from lensd.errors import Failed
from lensd.store.tensors import StagedWriter
try:
    with StagedWriter(sys.argv[1], "a") as staged:
        staged.write(b"x")
        staged.finish()
except Failed as error:
    print(error.reason)
"""
    done = run_refused(script, tmp_path, refused={"fsync": errno.EIO})
    assert done.stdout == "io_error\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [0, 1, 2**20, 2**20 + 1])
def test_sha256_of_a_whole_file(tmp_path: Path, size: int) -> None:
    """Equal to hashlib's, with and without the page cache, wherever the file offset is."""
    content = os.urandom(size)
    (tmp_path / "f").write_bytes(content)
    with (tmp_path / "f").open("rb") as file:
        file.seek(size // 2)
        expected = hashlib.sha256(content).hexdigest()
        assert sha256_of(file.fileno()) == expected
        assert sha256_of(file.fileno(), drop_cache=True) == expected


def test_hashing_stops_when_asked(tmp_path: Path) -> None:
    """Between two chunks."""
    (tmp_path / "f").write_bytes(bytes(5 * 2**20))
    asked = iter([False, False, True])
    with (tmp_path / "f").open("rb") as file, pytest.raises(Interrupted):
        sha256_of(file.fileno(), stop=lambda: next(asked))
