"""AutoV3 of published files: what the job thread keeps in the ledger while it has no job."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lensd import __version__
from lensd.jobs import data_hashes
from lensd.jobs.data_hashes import DataHashes
from lensd.store.archive import Archive
from lensd.store.identity import Identity
from lensd.store.ledger import JobState, Ledger, Outcome
from lensd.store.ledger.entry import Entry
from tests.support.realistic import small_lora


class Published:
    """A ledger with one file that was published after the first look of `DataHashes`."""

    def __init__(self, top: Path) -> None:
        self.loras, self.archive = top / "loras", Archive(str(top / "archive"))
        for folder in (self.loras, top / "archive" / "loras", top / "state"):
            folder.mkdir(parents=True)
        self.ledger = Ledger(str(top / "state"), __version__)
        self.hashes = DataHashes(self.ledger, self.archive)
        assert self.hashes.next_entry() is None
        self.original = small_lora(top / "archive" / "loras" / "style.safetensors", seed=1).path
        self.output = small_lora(self.loras / "style.safetensors", rank=4, seed=1).path
        self.add("job", self.output.name)

    def add(self, job_id: str, name: str) -> None:
        identity = Identity.of(self.output.lstat())
        jobs = self.ledger.jobs
        jobs.enqueue(job_id, str(self.loras), "loras", name, identity)
        jobs.update(
            job_id, state=JobState.PUBLISHED, staged=identity, line={"mode": "ultra"},
            archive_path=str(self.original), bytes_in=self.original.stat().st_size,
        )  # fmt: skip
        jobs.finish(job_id, Outcome.COMPRESSED)

    def entry(self) -> Entry:
        entry = self.hashes.next_entry()
        assert entry is not None
        return entry

    def line(self, job_id: str = "job") -> dict[str, object] | None:
        return self.ledger.jobs.get(job_id).line


@pytest.fixture
def published(tmp_path: Path) -> Iterator[Published]:
    published = Published(tmp_path)
    yield published
    published.ledger.close()


def test_both_hashes_are_kept_in_the_line(published: Published) -> None:
    """They are those of the bytes after the header; then no file is left."""
    published.hashes.keep(published.entry(), lambda: False)
    expected = {"mode": "ultra"}
    expected |= {data_hashes.ORIGINAL: _data_sha256(published.original)}
    expected |= {data_hashes.OUTPUT: _data_sha256(published.output)}
    assert published.line() == expected
    assert published.hashes.next_entry() is None
    assert DataHashes(published.ledger, published.archive).next_entry() is None


def test_files_of_before_are_left_alone(published: Published) -> None:
    """A lensd that starts with an old ledger does not read its whole archive."""
    published.ledger.state.hashed_until.clear()
    later = DataHashes(published.ledger, published.archive)
    assert later.next_entry() is None
    published.add("next", "next.safetensors")
    entry = later.next_entry()
    assert entry is not None
    assert entry.job_id == "next"


def test_a_hash_that_is_known_is_not_computed(published: Published) -> None:
    """Such as those in the lines of an older lensd."""
    known = {data_hashes.ORIGINAL: "a" * 64, data_hashes.OUTPUT: "b" * 64}
    published.ledger.jobs.update("job", line=known)
    assert data_hashes.compute(published.archive, published.entry(), _must_not_read) == {}


def test_other_work_comes_first(published: Published) -> None:
    """Without effect if it has to stop; the file has its turn again."""
    published.hashes.keep(published.entry(), lambda: True)
    assert published.line() == {"mode": "ultra"}
    assert published.entry().job_id == "job"


def test_a_file_that_is_not_the_one_has_no_hash(published: Published) -> None:
    """An output that another program replaced, and an original that is gone."""
    small_lora(published.output, rank=2)
    os.utime(published.output, (1e9, 1e9))
    published.original.unlink()
    published.hashes.keep(published.entry(), lambda: False)
    assert published.line() == {"mode": "ultra"}
    assert published.hashes.next_entry() is None


def _must_not_read() -> bool:
    raise AssertionError("a file was read")


def _data_sha256(path: Path) -> str:
    data = path.read_bytes()
    return hashlib.sha256(data[8 + int.from_bytes(data[:8], "little") :]).hexdigest()
