"""Each state that a crash can leave behind, on a real ledger and real files.

The states are written by hand, as the ledger's docstring tells them; what a killed daemon really
leaves is in tests/daemon/test_stopping.py.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lensd import __version__
from lensd.daemon.inbox import Inbox
from lensd.jobs import commit, recover
from lensd.jobs.context import JobContext, JobFile
from lensd.jobs.filesystems import Filesystems
from lensd.logs.events import Event
from lensd.store.archive import Archive
from lensd.store.disk_errors import Interrupted
from lensd.store.fs import temporary_name
from lensd.store.identity import Identity
from lensd.store.lease import block_lease_signal
from lensd.store.ledger import JobState, Ledger, Outcome
from lensd.store.ledger.entry import Entry
from lensd.store.rename import exchange
from lensd.watcher.move_tracker import MoveTracker
from lensd.watcher.root_states import RootStates
from tests.support.events import compressed
from tests.support.home_server import HomeServer, Seen

ORIGINAL, OUTPUT, NEWER = b"the original" * 50, b"the output", b"somebody's newer bytes"


class Crashed:
    """A job at some step, and what lies in the folders then."""

    def __init__(self, top: Path) -> None:
        block_lease_signal()
        self.loras, self.archive = top / "loras", top / "archive"
        for folder in (self.loras, self.archive / "loras", top / "state"):
            folder.mkdir(parents=True)
        self.ledger = Ledger(str(top / "state"), __version__)
        self.path = self.loras / "style.safetensors"
        self.path.write_bytes(ORIGINAL)
        os.utime(self.path, (1e9, 1e9))
        self.temporary = self.loras / temporary_name("job")
        self.archived = self.archive / "loras" / self.path.name
        self.lines: list[tuple[str, dict[str, Any]]] = []
        identity = Identity.of(self.path.lstat())
        self.ledger.roots.add(str(self.loras), "loras")
        self.ledger.jobs.enqueue("job", str(self.loras), "loras", self.path.name, identity)
        archive, inbox = Archive(str(self.archive)), Inbox()
        self.context = JobContext(
            ledger=self.ledger,
            archive=archive,
            log=self.log,
            device="cpu",
            quiet_seconds=0.1,
            hints=inbox,
            root_states=RootStates([], inbox),
            move_tracker=MoveTracker([], self.ledger, archive, self.log),
            filesystems=Filesystems(self.ledger),
        )

    def log(self, event: Event) -> None:
        self.lines.append((event.name, msgspec.to_builtins(event)))

    def step(self, state: JobState, **columns: Any) -> None:
        self.ledger.jobs.update("job", state=state, temporary=self.temporary.name, **columns)

    def stage(self) -> None:
        self.temporary.write_bytes(OUTPUT)
        os.utime(self.temporary, (1e9, 1e9))
        self.step(
            JobState.STAGED,
            staged=Identity.of(self.temporary.lstat()),
            sha256_in=hashlib.sha256(ORIGINAL).hexdigest(),
        )

    def archive_it(self, *, link: bool) -> None:
        if link:
            os.link(self.path, self.archived)
        else:
            shutil.copy2(self.path, self.archived)
        line = commit.ledger_line(compressed(path=str(self.path), archive_path=str(self.archived)))
        self.step(
            JobState.PUBLISHING, line=line, archive_path=str(self.archived), archive_method="link"
        )

    def exchange(self) -> None:
        fd = os.open(self.loras, os.O_RDONLY)
        exchange(fd, self.temporary.name, self.path.name)
        os.close(fd)

    def recover(self) -> Entry:
        """Restart: returns the job."""
        recover.recover(self.context)
        recover.rescue_strays(str(self.loras), "loras", recursive=True, context=self.context)
        assert not self.temporary.exists()
        return self.ledger.jobs.get("job")

    @property
    def rescued(self) -> list[bytes]:
        found = self.archive.glob("rescued/**/*.safetensors")
        return [path.read_bytes() for path in found]


@pytest.fixture
def crashed(tmp_path: Path) -> Iterator[Crashed]:
    crashed = Crashed(tmp_path)
    yield crashed
    crashed.ledger.close()


@pytest.mark.parametrize("there", [None, b"", OUTPUT[:4]])
def test_while_the_worker_wrote(crashed: Crashed, there: bytes | None) -> None:
    """running: the half output, if there is one, goes; the job begins again."""
    if there is not None:
        crashed.temporary.write_bytes(there)
    crashed.step(JobState.RUNNING)
    assert crashed.recover().state == JobState.QUEUED
    assert crashed.path.read_bytes() == ORIGINAL
    assert [] == crashed.lines


def test_a_temporary_that_an_earlier_attempt_could_not_remove(crashed: Crashed) -> None:
    """Its disk was read-only. The next one has another, and a start after the job rescues it."""
    crashed.temporary.write_bytes(OUTPUT[:4])
    folder_fd, fd = os.open(crashed.loras, os.O_RDONLY), os.open(crashed.path, os.O_RDONLY)
    job_file = JobFile(
        crashed.ledger.jobs.get("job"), folder_fd, crashed.path.name, fd, None,
        crashed.temporary.name, str(crashed.path), waited=0.0, began=0.0,
    )  # fmt: skip
    with suppress(Interrupted), commit.staged(job_file, crashed.context):
        assert crashed.ledger.jobs.get("job").temporary == job_file.temporary
        assert (crashed.loras / job_file.temporary).read_bytes() == b""
        raise Interrupted
    os.close(folder_fd)
    os.close(fd)
    assert sorted(crashed.loras.iterdir()) == [crashed.temporary, crashed.path]
    crashed.ledger.jobs.finish("job", Outcome.KEPT)
    crashed.recover()
    assert [name for name, _ in crashed.lines] == ["file.rescued"]


@pytest.mark.parametrize("link", [True, False])
@pytest.mark.parametrize("archived", [True, False])
def test_before_the_exchange(crashed: Crashed, *, link: bool, archived: bool) -> None:
    """staged or publishing: the output goes, the original has its name; the job begins again."""
    crashed.stage()
    if archived:
        crashed.archive_it(link=link)
    assert crashed.recover().state == JobState.QUEUED
    assert crashed.path.read_bytes() == ORIGINAL
    assert [] == crashed.rescued
    assert [] == crashed.lines


@pytest.mark.parametrize("link", [True, False])
@pytest.mark.parametrize("noted", [True, False])
def test_after_the_exchange(crashed: Crashed, *, link: bool, noted: bool) -> None:
    """publishing or published: completed, the original parted with, the lost line said once."""
    crashed.stage()
    crashed.archive_it(link=link)
    crashed.exchange()
    if noted:
        crashed.step(JobState.PUBLISHED, outcome=Outcome.COMPRESSED)
    done = crashed.recover()
    assert (done.state, done.outcome) == ("done", "compressed")
    assert crashed.path.read_bytes() == OUTPUT
    assert crashed.archived.read_bytes() == ORIGINAL
    assert crashed.archived.stat().st_nlink == 1
    [(event, line)] = crashed.lines
    assert (event, line["recovered"], line["publish"]) == ("file.compressed", True, "exchange")
    crashed.recover()
    assert len(crashed.lines) == 1


def test_after_the_original_was_parted_with(crashed: Crashed) -> None:
    """published, and no temporary any more: only the line is missing."""
    crashed.stage()
    crashed.archive_it(link=True)
    crashed.exchange()
    crashed.temporary.unlink()
    assert crashed.recover().outcome == Outcome.COMPRESSED
    assert ["file.compressed"] == [event for event, _ in crashed.lines]


def test_a_line_that_was_said_is_not_said_again(crashed: Crashed) -> None:
    """The ledger notes it after it was written."""
    crashed.stage()
    crashed.archive_it(link=False)
    crashed.exchange()
    crashed.step(JobState.PUBLISHED, outcome=Outcome.COMPRESSED, emitted=1)
    assert crashed.recover().outcome == Outcome.COMPRESSED
    assert [] == crashed.lines


def test_somebody_wrote_before_the_exchange(crashed: Crashed) -> None:
    """Their bytes have the name, and stay; the output goes."""
    crashed.stage()
    crashed.archive_it(link=False)
    crashed.path.write_bytes(NEWER)
    assert crashed.recover().state == JobState.QUEUED
    assert crashed.path.read_bytes() == NEWER
    assert crashed.archived.read_bytes() == ORIGINAL


@pytest.mark.parametrize("link", [True, False])
def test_somebody_wrote_to_what_came_out(crashed: Crashed, *, link: bool) -> None:
    """A writer that had it open before the exchange: its bytes get the name back."""
    crashed.stage()
    crashed.archive_it(link=link)
    with crashed.path.open("r+b") as writer:
        crashed.exchange()
        writer.truncate()
        writer.write(NEWER)
    assert crashed.recover().state == JobState.QUEUED
    assert crashed.path.read_bytes().startswith(NEWER)
    assert [] == crashed.rescued
    if not link:
        assert crashed.archived.read_bytes() == ORIGINAL


def test_somebody_wrote_after_it_was_published(crashed: Crashed) -> None:
    """The output may be in use by then: the bytes are rescued and named, not deleted."""
    crashed.stage()
    crashed.archive_it(link=False)
    crashed.exchange()
    crashed.step(JobState.PUBLISHED, outcome=Outcome.COMPRESSED, emitted=1)
    crashed.temporary.write_bytes(NEWER)
    assert crashed.recover().outcome == Outcome.COMPRESSED
    assert [NEWER] == crashed.rescued
    [(event, line)] = crashed.lines
    assert event == "file.rescued"
    assert Path(line["rescued_path"]).read_bytes() == NEWER
    assert line["rescued_path"] in line["message"]


def test_a_newer_file_took_the_name_after_the_exchange(crashed: Crashed) -> None:
    """A sync program renamed its file over the output: that one stays, and is a new version."""
    crashed.stage()
    crashed.archive_it(link=False)
    crashed.exchange()
    other = crashed.loras / "incoming"
    other.write_bytes(NEWER)
    other.rename(crashed.path)
    assert crashed.recover().outcome == Outcome.COMPRESSED
    assert crashed.path.read_bytes() == NEWER
    newer = Identity.of(crashed.path.lstat())
    assert crashed.ledger.files.knows(str(crashed.loras), crashed.path.name, newer) is None
    assert crashed.archived.read_bytes() == ORIGINAL
    assert [] == crashed.rescued


def test_the_output_was_renamed_after_the_exchange(crashed: Crashed) -> None:
    """The original under the temporary shows that it was published: the ledger keeps the tie."""
    crashed.stage()
    crashed.archive_it(link=True)
    crashed.exchange()
    moved = crashed.path.rename(crashed.path.with_name("moved.safetensors"))
    done = crashed.recover()
    assert (done.outcome, done.archive_path) == ("compressed", str(crashed.archived))
    assert moved.read_bytes() == OUTPUT
    assert crashed.archived.read_bytes() == ORIGINAL
    assert ["file.compressed"] == [event for event, _ in crashed.lines]


def test_somebody_opened_what_came_out_and_has_not_written_yet(crashed: Crashed) -> None:
    """The lease went with the killed lensd: the writer's file gets its name back."""
    crashed.stage()
    crashed.archive_it(link=False)
    with crashed.path.open("r+b") as writer:
        crashed.exchange()
        assert crashed.recover().state == JobState.QUEUED
        writer.write(NEWER)
    assert crashed.path.read_bytes().startswith(NEWER)
    assert [] == crashed.rescued


def test_somebody_opened_what_was_published(crashed: Crashed) -> None:
    """What is written through it later lands in `rescued/`."""
    crashed.stage()
    crashed.archive_it(link=False)
    with crashed.path.open("r+b") as writer:
        crashed.exchange()
        crashed.step(JobState.PUBLISHED, outcome=Outcome.COMPRESSED, emitted=1)
        assert crashed.recover().outcome == Outcome.COMPRESSED
        writer.truncate()
        writer.write(NEWER)
    assert [NEWER] == crashed.rescued
    assert crashed.path.read_bytes() == OUTPUT


def test_the_output_was_deleted_after_the_exchange(crashed: Crashed) -> None:
    """The person removed the file: nothing brings it back, and the archive has the original."""
    crashed.stage()
    crashed.archive_it(link=False)
    crashed.exchange()
    crashed.path.unlink()
    crashed.recover()
    assert not crashed.path.exists()
    assert crashed.archived.read_bytes() == ORIGINAL


def test_a_temporary_without_a_job_is_rescued(crashed: Crashed) -> None:
    """The ledger was lost: nobody knows whose bytes these are."""
    stray = crashed.loras / "inner" / temporary_name("unknown")
    stray.parent.mkdir()
    stray.write_bytes(NEWER)
    crashed.recover()
    assert not stray.exists()
    [(event, line)] = crashed.lines
    assert (event, line["job_id"]) == ("file.rescued", None)
    assert Path(line["rescued_path"]).read_bytes() == NEWER


def test_a_temporary_in_a_renamed_folder_is_rescued(crashed: Crashed) -> None:
    """The folder was renamed during the job, before the kill. Here the temporary has an output."""
    crashed.stage()
    renamed = crashed.loras.with_name("renamed")
    crashed.loras.rename(renamed)
    crashed.loras.mkdir()
    renamed.rename(crashed.loras / "renamed")
    crashed.recover()
    assert not (crashed.loras / "renamed" / crashed.temporary.name).exists()
    [(event, line)] = crashed.lines
    assert event == "file.rescued"
    assert Path(line["rescued_path"]).read_bytes() == OUTPUT


def test_what_cannot_be_put_right_stays_for_the_next_start(crashed: Crashed) -> None:
    """Here `rescued` is no folder. lensd starts, says why, and touches nothing."""
    crashed.stage()
    crashed.archive_it(link=False)
    crashed.exchange()
    crashed.step(JobState.PUBLISHED, outcome=Outcome.COMPRESSED, emitted=1)
    crashed.temporary.write_bytes(NEWER)
    in_the_way = crashed.archive / "rescued"
    in_the_way.write_bytes(b"")
    recover.recover(crashed.context)
    recover.rescue_strays(str(crashed.loras), "loras", recursive=True, context=crashed.context)
    [(event, line)] = crashed.lines
    assert (event, line["job_id"]) == ("file.skipped", "job")
    assert crashed.temporary.read_bytes() == NEWER
    in_the_way.unlink()
    assert crashed.recover().state == JobState.DONE
    assert [NEWER] == crashed.rescued


def test_half_copies_in_the_archive_are_removed(crashed: Crashed) -> None:
    """The job was killed while it copied."""
    crashed.stage()
    half = crashed.archived.with_name(temporary_name("half"))
    half.write_bytes(ORIGINAL[:9])
    crashed.recover()
    assert not half.exists()


def test_a_lost_ledger_does_not_hide_half_copies(crashed: Crashed, tmp_path: Path) -> None:
    """A new ledger knows no job, so the whole archive is looked through, once."""
    half = crashed.archive / "loras/deep" / temporary_name("half")
    half.parent.mkdir()
    half.write_bytes(ORIGINAL[:9])
    crashed.recover()
    assert half.exists()
    (tmp_path / "new").mkdir()
    with closing(Ledger(str(tmp_path / "new"), __version__)) as ledger:
        recover.recover(replace(crashed.context, ledger=ledger))
    assert not half.exists()


def test_a_folder_that_went_with_its_job(crashed: Crashed) -> None:
    """The whole folder was moved away while lensd was down: no error, the job will say so."""
    crashed.stage()
    shutil.rmtree(crashed.loras)
    recover.recover(crashed.context)
    assert crashed.ledger.jobs.get("job").state == JobState.QUEUED


def test_a_published_file_stays_known_when_its_folder_is_away(crashed: Crashed) -> None:
    """Its disk is not mounted at the next start: the ledger does not forget the original."""
    crashed.stage()
    crashed.archive_it(link=False)
    crashed.exchange()
    crashed.step(JobState.PUBLISHED, outcome=Outcome.COMPRESSED, emitted=1)
    crashed.loras.rename(crashed.loras.with_name("unmounted"))
    recover.recover(crashed.context)
    done = crashed.ledger.jobs.get("job")
    assert (done.state, done.outcome) == ("done", "compressed")


def test_a_file_that_was_archived_and_then_renamed(tmp_path: Path) -> None:
    """lensd's own link in the archive is no name of the user's: the new name is compressed."""
    server = HomeServer(tmp_path)
    path = server.drop("old.safetensors", seed=1).path
    server.state.mkdir()
    ledger = Ledger(str(server.state), __version__)
    root = str(server.loras)
    ledger.roots.add(root, "loras")
    identity = Identity.of(path.lstat())
    ledger.jobs.enqueue("job", root, "loras", path.name, identity)
    server.archived(path).parent.mkdir()
    os.link(path, server.archived(path))
    ledger.jobs.update("job", state=JobState.STAGED, staged=identity)
    ledger.close()
    sha256 = Seen.of(path).sha256
    new = path.rename(server.loras / "new.safetensors")
    with server.daemon(forked=True) as daemon:
        line = daemon.wait_for_file(new)
        assert (line["event"], line["sha256_in"]) == ("file.compressed", sha256)
    assert Seen.of(server.archived(new)).sha256 == sha256
    assert not server.archived(path).exists()
