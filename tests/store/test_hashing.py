"""Hashes of open files."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from lensd.store.disk_errors import Interrupted
from lensd.store.hashing import sha256_of


@pytest.mark.parametrize("size", [0, 1, 2**20, 2**20 + 1])
def test_sha256_of_a_whole_file(tmp_path: Path, size: int) -> None:
    """It equals hashlib's, with and without the page cache, at any file offset."""
    content = os.urandom(size)
    (tmp_path / "f").write_bytes(content)
    with (tmp_path / "f").open("rb") as file:
        file.seek(size // 2)
        expected = hashlib.sha256(content).hexdigest()
        assert sha256_of(file.fileno()) == expected
        assert sha256_of(file.fileno(), drop_cache=True) == expected


def test_hashing_stops_when_asked(tmp_path: Path) -> None:
    """It stops between two chunks."""
    (tmp_path / "f").write_bytes(bytes(5 * 2**20))
    asked = iter([False, False, True])
    with (tmp_path / "f").open("rb") as file, pytest.raises(Interrupted):
        sha256_of(file.fileno(), stop=lambda: next(asked))
