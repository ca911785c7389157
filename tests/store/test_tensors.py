"""One tensor is read; a staged file is filled and compared with what lies on the disk."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from safetensors.torch import load_file

from lensd.errors import Failed, Skipped
from lensd.store.hashing import data_sha256_of
from lensd.store.header import encode_header, read_header
from lensd.store.tensors import Output, read_into

TENSORS = [("b", "F32", ()), ("a", "I8", (2, 3)), ("none", "I8", (0,))]
HEADER_BYTES = 512


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


def filled(path: Path) -> Output:
    """Return an output with all tensors and without a header."""
    found = path.stat()
    output = Output(str(path), (found.st_dev, found.st_ino), HEADER_BYTES)
    output.write(4, [("a", b"abcdef"), ("none", b"")])
    output.write(0, [("b", b"\0\0\x80?")])
    return output


def written(path: Path) -> Output:
    output = filled(path)
    output.finish(TENSORS, {"note": "1.5"})
    output.sync()
    return output


def test_tensors_come_in_any_order_and_the_header_last(path: Path) -> None:
    """Each is at its offset; spaces fill up the header; the hash is the file's."""
    with written(path) as output:
        assert output.sha256() == hashlib.sha256(path.read_bytes()).hexdigest()
        with path.open("rb") as file:
            data = hashlib.sha256(b"\0\0\x80?abcdef").hexdigest()
            assert data_sha256_of(file.fileno()) == data
        assert output.first_difference() is None
        assert output.size == path.stat().st_size
    with path.open("rb") as file:
        header = read_header(file.fileno(), path.stat().st_size)
    assert header.metadata == {"note": "1.5"}
    assert header.data_start == HEADER_BYTES
    assert path.read_bytes()[header.data_start :] == b"\0\0\x80?abcdef"
    tensors = load_file(path)
    assert tensors["a"].tolist() == [[97, 98, 99], [100, 101, 102]]
    assert float(tensors["b"]) == 1.0


def test_tensors_apart_are_written_where_they_begin(path: Path) -> None:
    """Those that follow each other together, the others alone."""
    found = path.stat()
    with Output(str(path), (found.st_dev, found.st_ino), HEADER_BYTES) as output:
        starts = {"a": 0, "b": 2, "d": 6}
        output.write_apart(starts, {"d": b"gh", "b": b"cd", "a": b"ab"})
        output.write_apart({"c": 4}, {"c": b"ef"})
        output.write_apart({}, {})
        assert output.first_difference() is None
    assert path.read_bytes()[HEADER_BYTES:] == b"abcdefgh"


@pytest.mark.parametrize("how", ["header", "longer", "shorter"])
def test_other_bytes_on_the_disk_are_an_error(path: Path, how: str) -> None:
    """`sha256` fails with verify_failed for a header or a length that was not written."""
    with written(path) as output:
        if how == "header":
            path.write_bytes(path.read_bytes().replace(b"1.5", b"1.6"))
        else:
            os.truncate(path, output.size + (1 if how == "longer" else -1))
        with pytest.raises(Failed, match="not what was written") as caught:
            output.sha256()
    assert caught.value.reason == "verify_failed"


@pytest.mark.parametrize(
    ("old", "new", "name"), [(b"abcdef", b"abcdeF", "a"), (b"\x80?", b"\x80@", "b")]
)
def test_a_tensor_that_differs_is_named(path: Path, old: bytes, new: bytes, name: str) -> None:
    """The bytes are those of the disk, and not those in memory."""
    with written(path) as output:
        path.write_bytes(path.read_bytes().replace(old, new))
        assert output.first_difference() == name


def test_a_tensor_that_is_cut_off_is_named(path: Path) -> None:
    """The last one in the file."""
    with written(path) as output:
        os.truncate(path, output.size - 2)
        assert output.first_difference() == "a"


def test_other_tensors_than_those_of_the_header_are_refused(path: Path) -> None:
    """One of another size would lie over the next."""
    other = [("b", "F32", ()), ("a", "I8", (2, 2)), ("none", "I8", (0,))]
    with filled(path) as output, pytest.raises(ValueError, match="not those of the header"):
        output.finish(other, {})


def test_a_header_that_is_too_long_is_refused(path: Path) -> None:
    """It would lie over the tensors."""
    with filled(path) as output, pytest.raises(ValueError, match="too few"):
        output.finish(TENSORS, {"note": "1.5" * 1000})


def test_another_file_under_the_name_is_not_filled(path: Path) -> None:
    """The inode proves which file the daemon created; it must be empty."""
    found = path.stat()
    with pytest.raises(Failed, match="not the one lensd made"):
        Output(str(path), (found.st_dev, found.st_ino + 1), HEADER_BYTES)
    path.write_bytes(b"another file")
    with pytest.raises(Failed, match="not the one lensd made"):
        Output(str(path), (found.st_dev, found.st_ino), HEADER_BYTES)
    assert path.read_bytes() == b"another file"
