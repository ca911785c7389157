"""The staged output: what lies on the disk is compared with what was written."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from lensd.errors import Failed
from lensd.store.header import read_header
from lensd.store.staging import Output

TENSORS = [("b", "F32", ()), ("a", "I8", (2, 3)), ("none", "I8", (0,))]


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
    """Each at its place; the digest is that of the file; each tensor's bytes are known again."""
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
def test_a_disk_that_holds_something_else_is_noticed(path: Path, how: str) -> None:
    """A header or a length that was not written: verify_failed."""
    with written(path) as output:
        if how == "header":
            path.write_bytes(path.read_bytes().replace(b"1.5", b"1.6"))
        else:
            os.truncate(path, output.size + (1 if how == "longer" else -1))
        with pytest.raises(Failed, match="not what was written") as caught:
            output.hashes()
    assert caught.value.reason == "verify_failed"


def test_a_tensor_of_another_size_than_planned_is_refused(path: Path) -> None:
    """A bug must not write over the next tensor."""
    with written(path) as output, pytest.raises(ValueError, match="planned were 6"):
        output.write("a", b"abc")


def test_another_file_under_the_name_is_not_filled(path: Path) -> None:
    """The inode proves that it is the one lensd made, and it has to be empty."""
    found = path.stat()
    with pytest.raises(Failed, match="not the one lensd made"):
        Output(str(path), (found.st_dev, found.st_ino + 1), TENSORS, {})
    path.write_bytes(b"somebody's")
    with pytest.raises(Failed, match="not the one lensd made"):
        Output(str(path), (found.st_dev, found.st_ino), TENSORS, {})
    assert path.read_bytes() == b"somebody's"
