"""The name always has complete bytes, and another program that writes meanwhile wins."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lensd.errors import Failed, Skipped
from lensd.store.archive import Archive
from lensd.store.fs import open_folder
from lensd.store.identity import Identity
from lensd.store.publish import discard, place, publish, staged_original
from tests.store.conftest import RunPython
from tests.support import strace
from tests.support.disks import Mounts
from tests.support.marks import needs_program, needs_root

OLD, NEW, THEIRS = b"old" * 1000, b"new" * 100, b"theirs" * 500


def identity(path: Path) -> Identity:
    return Identity.of(os.lstat(path))


class Stage:
    """A file `f`, a staged `t` beside it, and publish() with hooks for another program."""

    def __init__(self, folder: Path, fd: int) -> None:
        self.name, self.temporary = folder / "f", folder / "t"
        self.name.write_bytes(OLD)
        self.temporary.write_bytes(NEW)
        os.utime(self.name, ns=(1_600_000_000_000_000_000, 1_600_000_000_000_000_000))
        self.expected, self.staged, self.fd = identity(self.name), identity(self.temporary), fd

    def publish(self, unbroken: Callable[[], bool] = lambda: True) -> str:
        return publish(
            self.fd, "f", "t", expected=self.expected, staged=self.staged, unbroken=unbroken
        )

    def skip_reason(self, unbroken: Callable[[], bool] = lambda: True) -> str:
        with pytest.raises(Skipped) as caught:
            self.publish(unbroken)
        return caught.value.reason

    @property
    def contents(self) -> tuple[bytes, bytes]:
        return self.name.read_bytes(), self.temporary.read_bytes()


@pytest.fixture
def stage(tmp_path: Path, folder_fd: int) -> Stage:
    return Stage(tmp_path, folder_fd)


class On:
    """An `unbroken` whose n-th call acts like another program."""

    def __init__(self, question: int, action: Callable[[], object], *, answer: bool = True) -> None:
        self.question, self.action, self.answer, self.asked = question, action, answer, 0

    def __call__(self) -> bool:
        self.asked += 1
        if self.asked == self.question:
            self.action()
            return self.answer
        return True


def test_an_untouched_file_is_replaced(stage: Stage) -> None:
    """The old file gets the temporary name, and `discard` unlinks it."""
    assert stage.publish() == "exchange"
    assert stage.contents == (NEW, OLD)
    assert discard(stage.fd, "t", stage.expected)
    assert not stage.temporary.exists()
    assert discard(stage.fd, "t", stage.expected)


@pytest.mark.slow
def test_an_untouched_file_is_replaced_on_a_filesystem_that_shares_blocks(
    reflink_disk: Path,
) -> None:
    """btrfs sets the ctime as ext4 does."""
    fd = os.open(reflink_disk, os.O_RDONLY)
    stage = Stage(reflink_disk, fd)
    assert stage.publish() == "exchange"
    assert stage.contents == (NEW, OLD)
    os.close(fd)


def test_an_untouched_file_is_replaced_on_tmpfs(other_device: Path) -> None:
    """The folder is in shared memory."""
    fd = os.open(other_device, os.O_RDONLY)
    stage = Stage(other_device, fd)
    assert stage.publish() == "exchange"
    assert stage.contents == (NEW, OLD)
    os.close(fd)


@pytest.mark.parametrize(
    "touch",
    [
        lambda path: path.write_bytes(THEIRS),
        os.utime,
        lambda path: path.chmod(0o600),
        lambda path: os.link(path, path.with_name("link")),
        lambda path: (path.unlink(), path.write_bytes(OLD)),
    ],
    ids=["written", "touched", "mode", "linked", "replaced"],
)
def test_a_file_that_changed_before_stays(stage: Stage, touch: Callable[[Path], object]) -> None:
    """Also if only its ctime changed."""
    touch(stage.name)
    before = stage.contents
    assert stage.skip_reason() == "changed"
    assert stage.contents == before


def test_a_deleted_file_stays_deleted(stage: Stage) -> None:
    """The output does not take the name of a file that the user deleted."""
    stage.name.unlink()
    assert stage.skip_reason() == "vanished"
    assert not stage.name.exists()


def test_another_staged_file_is_not_published(stage: Stage) -> None:
    """Only the verified file is published."""
    stage.temporary.write_bytes(b"tampered")
    assert stage.skip_reason() == "changed"
    assert stage.contents == (OLD, b"tampered")


def test_a_broken_lease_prevents_or_reverses_the_exchange(stage: Stage) -> None:
    """Also if the times of the file did not change."""
    for question in (1, 2):
        assert stage.skip_reason(On(question, lambda: None, answer=False)) == "changed"
        assert stage.contents == (OLD, NEW)
        stage.expected = identity(stage.name)


def in_place(path: Path, content: bytes) -> None:
    with path.open("r+b") as file:
        file.truncate()
        file.write(content)


def with_the_old_time(path: Path, content: bytes) -> None:
    time_before = path.stat().st_mtime_ns
    in_place(path, content)
    os.utime(path, ns=(time_before, time_before))


def test_a_writer_between_the_check_and_the_exchange_wins(stage: Stage) -> None:
    """Its bytes get the temporary name in the exchange, and then their name again."""
    assert stage.skip_reason(On(1, lambda: in_place(stage.name, THEIRS))) == "changed"
    assert stage.contents == (THEIRS, NEW)


def test_a_writer_with_an_open_descriptor_wins_after_the_exchange(tmp_path: Path) -> None:
    """Another process writes to the inode that came out, as fast as it can."""
    lost = _race(tmp_path, rounds=150)
    assert lost == []


def _race(folder: Path, rounds: int) -> list[str]:
    """The faults of `rounds` of a writer against publish, started at every point of it."""
    fd = os.open(folder, os.O_RDONLY)
    wrong = []
    for turn in range(rounds):
        stage = Stage(folder, fd)
        with stage.name.open("r+b", buffering=0) as writer:
            go = threading.Event()

            def write(go: threading.Event = go, delay: float = turn * 2e-6) -> None:
                go.wait()
                time.sleep(delay)
                os.pwrite(writer.fileno(), THEIRS[: len(OLD)], 0)

            thread = threading.Thread(target=write)
            thread.start()
            go.set()
            try:
                stage.publish()
                published = True
            except Skipped:
                published = False
            thread.join()
        name, temporary = stage.contents
        if published and (name != NEW or discard(fd, "t", stage.expected)):
            wrong.append(f"round {turn}: published, and the writer's bytes were discarded")
        if not published and (name != THEIRS[: len(OLD)] or temporary != NEW):
            wrong.append(f"round {turn}: swapped back to something else")
    os.close(fd)
    return wrong


@pytest.mark.parametrize("write", [in_place, with_the_old_time])
def test_a_write_into_what_came_out_is_seen(
    stage: Stage, write: Callable[[Path, bytes], None]
) -> None:
    """Also with the same size and the old mtime: then the ctime is later than the exchange."""
    same_size = THEIRS[: len(OLD)]

    def write_a_tick_later() -> None:
        time.sleep(0.02)  # the coarse clock of old kernels
        write(stage.temporary, same_size)

    assert stage.skip_reason(On(2, write_a_tick_later)) == "changed"
    assert stage.contents == (same_size, NEW)


def test_a_file_moved_over_the_name_meanwhile_wins(stage: Stage) -> None:
    """Another program renames its new file onto the published one, and the lease is broken."""

    def rename_over() -> None:
        (stage.name.parent / "download").write_bytes(THEIRS)
        (stage.name.parent / "download").rename(stage.name)

    assert stage.skip_reason(On(2, rename_over, answer=False)) == "changed"
    assert stage.contents == (THEIRS, OLD)


def test_a_file_moved_over_the_name_before_the_exchange_wins(stage: Stage) -> None:
    """It gets the temporary name in the exchange, and then its name again."""

    def rename_over() -> None:
        (stage.name.parent / "download").write_bytes(THEIRS)
        (stage.name.parent / "download").rename(stage.name)

    assert stage.skip_reason(On(1, rename_over)) == "changed"
    assert stage.contents == (THEIRS, NEW)


def test_a_name_deleted_before_the_swap_back_gets_the_other_bytes(stage: Stage) -> None:
    """The bytes of the other program have no other name."""
    assert stage.skip_reason(On(2, stage.name.unlink, answer=False)) == "changed"
    assert stage.name.read_bytes() == OLD


def test_any_other_error_swaps_back(stage: Stage) -> None:
    """Also for a bug, or ^C."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stage.publish(On(2, interrupt))
    assert stage.contents == (OLD, NEW)


PUBLISH = """
import os, sys
from lensd.errors import Failed
from lensd.store.publish import publish
from lensd.store.identity import Identity
fd = os.open(sys.argv[1], os.O_RDONLY)
expected, staged = (Identity.of(os.stat(name, dir_fd=fd)) for name in "ft")
try:
    print(publish(fd, "f", "t", expected=expected, staged=staged, unbroken=lambda: True))
except Failed as failed:
    print(failed.reason)
"""


def test_an_error_of_fsync_swaps_back(stage: Stage, run_refused: RunPython) -> None:
    """With EIO the exchange is not durable, so nothing is published."""
    done = run_refused(PUBLISH, stage.name.parent, refused={"fsync": errno.EIO})
    assert done.stdout == "io_error\n"
    assert stage.contents == (OLD, NEW)


def test_without_exchange_it_is_renamed(stage: Stage, run_refused: RunPython) -> None:
    """publish() returns "rename"; only the archive has the old inode then."""
    done = run_refused(PUBLISH, stage.name.parent, refused={"renameat2": errno.EINVAL})
    assert done.stdout == "rename\n"
    assert stage.name.read_bytes() == NEW
    assert not stage.temporary.exists()


def test_an_exchange_that_did_nothing_is_none(stage: Stage, run_refused: RunPython) -> None:
    """The kernel reports success for a call that it leaves out: the file is renamed instead."""
    done = run_refused(PUBLISH, stage.name.parent, refused={"renameat2": 0})
    assert done.stdout == "rename\n"
    assert stage.name.read_bytes() == NEW
    assert not stage.temporary.exists()


@pytest.mark.slow
@needs_program("strace")
def test_an_exchange_that_was_a_rename_is_one(stage: Stage, tmp_path: Path) -> None:
    """The name has the output and the temporary is gone: the original is only in the archive."""
    script = f"input()\n{PUBLISH}"
    with subprocess.Popen(
        [sys.executable, "-c", script, str(stage.name.parent)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as publisher:  # fmt: skip
        assert publisher.stdin
        assert publisher.stdout
        stop = strace.stopped_after(strace.Call("renameat2", 1, ""))
        tracer = strace.Tracer(publisher.pid, tmp_path / "trace", ["renameat2"], [stop])
        publisher.stdin.write("\n")
        publisher.stdin.flush()
        tracer.at_stop(stage.temporary.unlink)
        assert publisher.stdout.read() == "rename\n"
    tracer.wait()
    assert stage.name.read_bytes() == NEW


@pytest.mark.slow
@needs_root
@pytest.mark.parametrize("is_open", [False, True])
def test_a_filesystem_whose_exchange_is_a_rename(tmp_path: Path, *, is_open: bool) -> None:
    """exfat-fuse; with the old file open, as in a job, it would crash on an exchange."""
    with Mounts() as mounts:
        disk = mounts.exfat(tmp_path / "disk")
        fd = os.open(disk, os.O_RDONLY)
        stage = Stage(disk, fd)
        old = os.open(stage.name, os.O_RDONLY) if is_open else None
        assert stage.publish() == "rename"
        assert stage.name.read_bytes() == NEW
        if old is not None:
            assert os.pread(old, len(OLD), 0) == OLD
            os.close(old)
        assert [path.name for path in disk.iterdir()] == ["f"]
        os.close(fd)


@pytest.mark.lengthy
def test_the_name_always_has_a_complete_file(stage: Stage) -> None:
    """Another process reads complete old or complete new bytes through 300 publishes."""
    script = f"""
import sys
seen = set()
print(flush=True)
while len(seen) < 2 or not sys.stdin.closed:
    content = open(sys.argv[1], "rb").read()
    assert content in ({OLD!r}, {NEW!r}), content[:20]
    seen.add(content)
    import os, select
    if select.select([sys.stdin], [], [], 0)[0]:
        break
print(len(seen))
"""
    with subprocess.Popen(
        [sys.executable, "-c", script, str(stage.name)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as reader:  # fmt: skip
        assert reader.stdout is not None
        reader.stdout.readline()
        for _ in range(300):
            stage.publish()
            stage.expected, stage.staged = identity(stage.name), identity(stage.temporary)
        told, _ = reader.communicate("stop")
    assert reader.returncode == 0
    assert told == "2\n"


def test_only_the_given_file_is_discarded(stage: Stage) -> None:
    """Other files stay."""
    seen = identity(stage.temporary)
    in_place(stage.temporary, b"theirs")
    assert not discard(stage.fd, "t", seen)
    assert stage.temporary.read_bytes() == b"theirs"


def put_back(
    original: Path,
    sha256: str,
    root: Path,
    published: Identity | None,
    stop: Callable[[], bool] | None = None,
) -> str:
    """Stage an original and give it its name, as a restore does."""
    fd = os.open(original, os.O_RDONLY)
    Path(root, "styles").mkdir(exist_ok=True)
    folder_fd = open_folder(str(root), "styles")
    try:
        with staged_original(fd, sha256, folder_fd, "t", stop) as (method, incoming):
            place(folder_fd, "f", "t", incoming, replaces=published, unbroken=lambda: True)
        if published is not None:
            discard(folder_fd, "t", published)
        return method
    finally:
        os.close(folder_fd)
        os.close(fd)


class Restore:
    """An archived original and its published output in a watched folder."""

    def __init__(self, archive_root: Path, root: Path) -> None:
        self.root, self.name = root, root / "styles" / "f"
        self.name.parent.mkdir(parents=True)
        archive_root.mkdir(exist_ok=True)
        self.archive = Archive(str(archive_root))
        self.name.write_bytes(OLD)
        self.name.chmod(0o640)
        os.utime(self.name, ns=(5, 6))
        self.sha256 = hashlib.sha256(OLD).hexdigest()
        fd = os.open(self.name, os.O_RDONLY)
        self.original = Path(
            self.archive.keeper.keep(
                fd, identity(self.name), self.sha256, "loras", "styles/f", may_link=True
            ).path
        )
        os.close(fd)
        self.name.unlink()
        self.name.write_bytes(NEW)
        self.published: Identity | None = identity(self.name)

    def back(self, stop: Callable[[], bool] | None = None) -> str:
        return put_back(self.original, self.sha256, self.root, self.published, stop)

    def assert_is_back(self) -> None:
        found = self.name.stat()
        assert self.name.read_bytes() == OLD
        assert (stat.S_IMODE(found.st_mode), found.st_mtime_ns, found.st_nlink) == (
            0o640,
            6,
            self.original.stat().st_nlink,
        )
        assert [path.name for path in self.name.parent.iterdir()] == ["f"]


@pytest.fixture(params=["one filesystem", "two"])
def restore(request: pytest.FixtureRequest, tmp_path: Path) -> Restore:
    if request.param == "two":
        return Restore(request.getfixturevalue("other_device") / "archive", tmp_path / "loras")
    return Restore(tmp_path / "archive", tmp_path / "loras")


def test_an_original_comes_back_bit_exact(restore: Restore) -> None:
    """With its attributes; on one filesystem it needs no space."""
    inode = restore.original.stat().st_ino
    method = restore.back()
    restore.assert_is_back()
    assert (restore.name.stat().st_ino == inode) == (method == "move")


@pytest.mark.parametrize("missing", ["file", "folder"])
def test_an_original_comes_back_to_a_missing_path(restore: Restore, missing: str) -> None:
    """The user deleted the output, or its folder."""
    restore.name.unlink()
    if missing == "folder":
        restore.name.parent.rmdir()
    restore.back()
    restore.assert_is_back()


@pytest.mark.parametrize("expects", ["the output", "nothing"])
def test_another_programs_file_is_not_replaced(restore: Restore, expects: str) -> None:
    """A newer file keeps the name, and the original stays in the archive."""
    if expects == "nothing":
        restore.published = None
    restore.name.unlink()
    restore.name.write_bytes(THEIRS)
    with pytest.raises(Skipped) as caught:
        restore.back()
    assert caught.value.reason == "changed"
    assert restore.name.read_bytes() == THEIRS
    assert restore.original.read_bytes() == OLD
    assert [path.name for path in restore.name.parent.iterdir()] == ["f"]


def _free(folder: Path) -> int:
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_bsize


@pytest.mark.slow
def test_a_full_disk_leaves_the_published_file(small_disk: Path, tmp_path: Path) -> None:
    """No incomplete file gets a name."""
    restore = Restore(tmp_path / "archive", small_disk / "loras")
    with (small_disk / "fill").open("wb") as fill:
        os.posix_fallocate(fill.fileno(), 0, _free(small_disk))
    with pytest.raises(Failed) as caught:
        restore.back()
    assert caught.value.reason == "no_space"
    assert restore.name.read_bytes() == NEW
    assert [path.name for path in restore.name.parent.iterdir()] == ["f"]


@pytest.mark.parametrize("answer", [errno.EINVAL, 0], ids=["refused", "left out"])
def test_restoring_without_exchange(tmp_path: Path, run_refused: RunPython, answer: int) -> None:
    """A plain rename replaces the output."""
    restore = Restore(tmp_path / "archive", tmp_path / "loras")
    script = """
import os, sys
from lensd.store.identity import Identity
from tests.store.test_publish import put_back
original, sha256, root = sys.argv[1:]
print(put_back(original, sha256, root, Identity.of(os.stat(f"{root}/styles/f"))))
"""
    done = run_refused(
        script, restore.original, restore.sha256, restore.root, refused={"renameat2": answer}
    )
    assert done.stdout == "move\n"
    restore.assert_is_back()


BY_LINK = PUBLISH.replace("unbroken=", 'way="link", unbroken=')


@pytest.mark.slow
@needs_root
@needs_program("strace")
@pytest.mark.parametrize(
    ("call", "number", "named"),
    [
        ("linkat", 1, OLD),
        ("renameat", 1, OLD),
        ("renameat", 2, NEW),
        ("fsync", 1, NEW),
        ("none", 1, NEW),
    ],
)
def test_killed_during_a_commit_by_link(
    tmp_path: Path, call: str, number: int, named: bytes
) -> None:
    """The name has the complete old or new bytes, and the old file has a name, at each moment."""
    (tmp_path / "below").mkdir()
    with Mounts() as mounts:
        disk = mounts.bindfs(tmp_path / "disk", tmp_path / "below")
        fd = os.open(disk, os.O_RDONLY)
        stage = Stage(disk, fd)
        kill = [] if call == "none" else ["-e", f"inject={call}:signal=SIGKILL:when={number}"]
        command = ["strace", "-qq", "-o", str(tmp_path / "trace"), *kill, sys.executable, "-c"]
        done = subprocess.run(
            [*command, BY_LINK, str(disk)], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout) == ((0, "link\n") if call == "none" else (-9, ""))
        assert stage.name.read_bytes() == named
        assert OLD in [path.read_bytes() for path in disk.iterdir()]
        if call == "none":
            assert stage.contents == (NEW, OLD)
        os.close(fd)
