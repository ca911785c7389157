"""A redo whose earlier output has no hash in the ledger, on a filesystem without leases."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from lensd.jobs import commit, replaced
from lensd.jobs.context import JobFile
from lensd.store.identity import Identity
from lensd.store.ledger import JobState, Outcome
from tests.jobs.test_recover import ORIGINAL, OUTPUT, Crashed
from tests.support.events import compressed

NEW_OUTPUT = b"the second output"
EDITED = b"the edited"
assert len(EDITED) == len(OUTPUT)


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Redo(Crashed):
    """The ledger was rebuilt, so that it knows the original, and the output by its marks only."""

    def __init__(self, top: Path) -> None:
        super().__init__(top)
        self.archived.write_bytes(ORIGINAL)
        self.path.write_bytes(OUTPUT)
        os.utime(self.path, (1e9, 1e9))
        self.ledger.jobs.finish(
            "job", Outcome.COMPRESSED, sha256_in=sha(ORIGINAL), archive_path=str(self.archived),
            archive_method="copy", staged=Identity.of(self.path.lstat()),
        )  # fmt: skip
        self.ledger.jobs.redo("again", self.ledger.jobs.get("job"))
        self.temporary.write_bytes(NEW_OUTPUT)
        self.output = Identity.of(self.temporary.lstat())
        self.ledger.jobs.update(
            "again", state=JobState.STAGED, staged=self.output, sha256_in=sha(ORIGINAL),
            sha256_out=sha(NEW_OUTPUT), temporary=self.temporary.name,
        )  # fmt: skip

    @contextmanager
    def open(self) -> Iterator[JobFile]:
        folder_fd, fd = os.open(self.loras, os.O_RDONLY), os.open(self.path, os.O_RDWR)
        entry = replace(self.ledger.jobs.get("again"), identity=Identity.of(os.fstat(fd)))
        name, temporary = self.path.name, self.temporary.name
        try:
            yield JobFile(entry, folder_fd, name, fd, None, temporary, str(self.archived), 0, 0)
        finally:
            os.close(folder_fd)
            os.close(fd)

    def edit(self, fd: int) -> None:
        """As a program on a network does: the times say nothing."""
        os.pwrite(fd, EDITED, 0)
        os.utime(fd, (1e9, 1e9))


@pytest.fixture
def redo(tmp_path: Path) -> Redo:
    return Redo(tmp_path)


@pytest.mark.fault("undo")
@pytest.mark.parametrize("edited", [False, True])
def test_an_edit_after_the_copy_is_rescued(redo: Redo, *, edited: bool) -> None:
    """The copy has the bytes from before the edit; the commit compares with its hash."""
    event = compressed(path=str(redo.path), archive_path=str(redo.archived))
    with redo.open() as job_file:
        replaced.keep_unknown_output(job_file, redo.context)
        assert redo.rescued == [OUTPUT]
        if edited:
            redo.edit(job_file.fd)
        commit.publish(job_file, redo.context, event, redo.output)
    assert redo.path.read_bytes() == NEW_OUTPUT
    assert sorted(redo.rescued) == ([EDITED, OUTPUT] if edited else [OUTPUT])
    assert not redo.temporary.exists()


@pytest.mark.fault("undo")
@pytest.mark.parametrize("edited", [False, True])
@pytest.mark.parametrize("state", [JobState.PUBLISHING, JobState.PUBLISHED])
def test_recovery_keeps_an_unknown_output(redo: Redo, state: JobState, *, edited: bool) -> None:
    """A crash came after the exchange: no hash says that these are bytes of lensd."""
    line = commit.ledger_line(compressed(path=str(redo.path), archive_path=str(redo.archived)))
    redo.ledger.jobs.update("again", state=state, line=line)
    with redo.open() as job_file:
        if edited:
            redo.edit(job_file.fd)
    redo.exchange()
    redo.recover()
    kept = EDITED if edited else OUTPUT
    if state == JobState.PUBLISHED:
        assert (redo.path.read_bytes(), redo.rescued) == (NEW_OUTPUT, [kept])
    else:  # it has its name again, and the job begins again
        assert (redo.path.read_bytes(), redo.rescued) == (kept, [])
        assert redo.ledger.jobs.get("again").state == JobState.QUEUED
