"""One tensor is read; a staged file is filled and compared with what lies on the disk."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from lensd.errors import Failed, Skipped
from lensd.store.header import encode_header, read_header
from lensd.store.tensors import Output, read_into

TENSORS = [("b", "F32", ()), ("a", "I8", (2, 3)), ("none", "I8", (0,))]


def test_a_tensor_is_read_from_its_offset(tmp_path: Path) -> None:
    """Only the tensor's own bytes are read; a tensor without elements has none."""
    tensors = [("a", "U8", (3,)), ("none", "F32", (0, 4)), ("b", "I16", (2,))]
    path = tmp_path / "f"
    path.write_bytes(encode_header(tensors, {}) + b"abcDEFG")
    with path.open("rb") as file:
        header = read_header(file.fileno(), path.stat().st_size)
        read = {name: bytearray(t.end - t.start) for name, t in header.tensors.items()}
        for name, data in read.items():
            read_into(memoryview(data), file.fileno(), header, name)
    assert read == {"a": b"abc", "none": b"", "b": b"DEFG"}


def test_a_file_that_shrinks_is_skipped_as_truncated(tmp_path: Path) -> None:
    """A program truncates the file between the reading of its header and of its tensors."""
    path = tmp_path / "f"
    path.write_bytes(encode_header([("a", "U8", (10_000,))], {}) + bytes(10_000))
    with path.open("rb") as file:
        header = read_header(file.fileno(), path.stat().st_size)
        os.truncate(path, 5_000)
        with pytest.raises(Skipped) as caught:
            read_into(memoryview(bytearray(10_000)), file.fileno(), header, "a")
    assert caught.value.reason == "truncated"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / ".lensd.tmp"
    path.touch()
    return path


def written(path: Path) -> Output:
    found = path.stat()
    output = Output(str(path), (found.st_dev, found.st_ino), TENSORS, {"note": "000"})
    for name, data in (("a", b"abcdef"), ("b", b"\0\0\x80?"), ("none", b"")):
        output.write(name, data)
    output.replace_metadata({"note": "1.5"})
    output.sync()
    return output


def test_tensors_come_in_any_order_and_metadata_last(path: Path) -> None:
    """Each is at its offset; the digests are those of the file and of each tensor."""
    with written(path) as output:
        hashes = output.hashes()
        assert hashes.file == hashlib.sha256(path.read_bytes()).hexdigest()
        assert hashes.data == hashlib.sha256(b"\0\0\x80?abcdef").hexdigest()
        assert output.is_as_written("a", b"abcdef")
        assert not output.is_as_written("a", b"abcdeF")
        assert not output.is_as_written("c", b"")
    with path.open("rb") as file:
        header = read_header(file.fileno(), path.stat().st_size)
    assert header.metadata == {"note": "1.5"}
    assert path.read_bytes()[header.data_start :] == b"\0\0\x80?abcdef"


@pytest.mark.parametrize("how", ["header", "longer", "shorter"])
def test_other_bytes_on_the_disk_are_an_error(path: Path, how: str) -> None:
    """`hashes` fails with verify_failed for a header or a length that was not written."""
    with written(path) as output:
        if how == "header":
            path.write_bytes(path.read_bytes().replace(b"1.5", b"1.6"))
        else:
            os.truncate(path, output.size + (1 if how == "longer" else -1))
        with pytest.raises(Failed, match="not what was written") as caught:
            output.hashes()
    assert caught.value.reason == "verify_failed"


def test_a_tensor_of_another_size_than_planned_is_refused(path: Path) -> None:
    """A wrong size would write over the next tensor."""
    with written(path) as output, pytest.raises(ValueError, match="planned were 6"):
        output.write("a", b"abc")


def test_another_file_under_the_name_is_not_filled(path: Path) -> None:
    """The inode proves which file the daemon created; it must be empty."""
    found = path.stat()
    with pytest.raises(Failed, match="not the one lensd made"):
        Output(str(path), (found.st_dev, found.st_ino + 1), TENSORS, {})
    path.write_bytes(b"another file")
    with pytest.raises(Failed, match="not the one lensd made"):
        Output(str(path), (found.st_dev, found.st_ino), TENSORS, {})
    assert path.read_bytes() == b"another file"
