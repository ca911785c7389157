"""Every archived original stays in the archive, bit-exact."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import time
from pathlib import Path

import pytest

from lensd.errors import Failed, Skipped, StorageError
from lensd.store.archive import Archive, Archived
from lensd.store.disk_errors import Interrupted
from lensd.store.fs import copy_name, temporary_name
from lensd.store.identity import Identity
from lensd.store.lease import Lease
from tests.store.conftest import RunPython
from tests.support.protected import protected

NAME = "styles/ink.safetensors"


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    (tmp_path / "archive").mkdir()
    return Archive(str(tmp_path / "archive"))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write(tmp_path / "loras" / NAME, b"original" * 1000)


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    return path


def keep(archive: Archive, path: Path, *, may_link: bool = False, name: str = NAME) -> Archived:
    fd = os.open(path, os.O_RDONLY)
    try:
        return archive.keeper.keep(
            fd, Identity.of(os.fstat(fd)), sha(path.read_bytes()), "loras", name, may_link=may_link
        )
    finally:
        os.close(fd)


def all_files(root: str | Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in Path(root).rglob("*")
        if path.is_file()
    }


def test_under_a_lease_the_opened_inode_is_linked(archive: Archive, source: Path) -> None:
    """No byte is copied; `cp -a` restores from the archive without lensd."""
    kept = keep(archive, source, may_link=True)
    assert kept == Archived("link", f"{archive.root}/loras/{NAME}")
    assert Path(kept.path).samefile(source)


def test_exactly_the_opened_file_is_archived(archive: Archive, source: Path) -> None:
    """Not another file that took its name meanwhile."""
    fd = os.open(source, os.O_RDONLY)
    identity, content = Identity.of(os.fstat(fd)), source.read_bytes()
    source.rename(source.with_name("moved"))
    write(source, b"another")
    for may_link in (True, False):
        kept = archive.keeper.keep(fd, identity, sha(content), "loras", NAME, may_link=may_link)
        assert Path(kept.path).read_bytes() == content
    os.close(fd)


def test_without_a_lease_it_is_copied_with_its_attributes(archive: Archive, source: Path) -> None:
    """A writer that has the file open cannot reach the copy."""
    source.chmod(0o440)
    os.utime(source, ns=(1, 1_234_567_890_123_456_789))
    kept = keep(archive, source)
    copy = Path(kept.path).stat()
    assert kept.method == "copy"
    assert not Path(kept.path).samefile(source)
    assert Path(kept.path).read_bytes() == source.read_bytes()
    assert (stat.S_IMODE(copy.st_mode), copy.st_mtime_ns) == (0o440, 1_234_567_890_123_456_789)
    assert list(all_files(archive.root)) == [f"loras/{NAME}"]


def test_on_another_device_it_is_copied(other_device: Path, source: Path) -> None:
    """lensd tries a link first, and its failure is not an error."""
    kept = keep(Archive(str(other_device)), source, may_link=True)
    assert kept.method == "copy"
    assert Path(kept.path).read_bytes() == source.read_bytes()


@pytest.mark.slow
def test_blocks_are_shared_where_the_filesystem_can(reflink_disk: Path) -> None:
    """A reflink is verified like a copy, and later writes do not reach it."""
    source = write(reflink_disk / "loras" / NAME, b"original" * 10_000)
    (reflink_disk / "archive").mkdir()
    os.utime(source, ns=(1, 2))
    kept = keep(Archive(str(reflink_disk / "archive")), source)
    assert kept.method == "reflink"
    source.write_bytes(b"theirs")
    assert Path(kept.path).read_bytes() == b"original" * 10_000
    assert Path(kept.path).stat().st_mtime_ns == 2


def test_the_same_original_is_kept_once(archive: Archive, source: Path) -> None:
    """After a crash lensd uses the archived original of the first attempt, with new attributes."""
    for first, second, method in [(True, True, "link"), (False, False, "copy")]:
        keep(archive, source, may_link=first)
        os.utime(source, ns=(7, 7))
        kept = keep(archive, source, may_link=second)
        assert kept.method == method
        assert Path(kept.path).stat().st_mtime_ns == 7
        assert len(all_files(archive.root)) == 1
        os.unlink(kept.path)


def test_an_old_link_is_replaced_for_a_file_with_a_writer(archive: Archive, source: Path) -> None:
    """lensd unlinks its own link and makes a copy."""
    keep(archive, source, may_link=True)
    kept = keep(archive, source, may_link=False)
    assert kept.method == "copy"
    assert not Path(kept.path).samefile(source)
    assert source.stat().st_nlink == 1


def test_the_last_name_of_a_deleted_file_stays_in_the_archive(
    archive: Archive, source: Path
) -> None:
    """The user deleted the file after lensd linked it: the archive has the only name."""
    kept = keep(archive, source, may_link=True)
    fd = os.open(source, os.O_RDONLY)
    identity = Identity.of(os.fstat(fd))
    source.unlink()
    with pytest.raises(Skipped) as caught:
        archive.keeper.keep(fd, identity, sha(b"original" * 1000), "loras", NAME, may_link=False)
    os.close(fd)
    assert caught.value.reason == "vanished"
    assert Path(kept.path).read_bytes() == b"original" * 1000


def test_a_file_without_a_name_is_not_linked(archive: Archive, source: Path) -> None:
    """It was deleted while lensd had it open."""
    fd = os.open(source, os.O_RDONLY)
    identity = Identity.of(os.fstat(fd))
    source.unlink()
    with pytest.raises(Skipped) as caught:
        archive.keeper.keep(fd, identity, sha(b"original" * 1000), "loras", NAME, may_link=True)
    os.close(fd)
    assert caught.value.reason == "vanished"


@pytest.mark.parametrize("may_link", [True, False])
def test_older_originals_move_aside(archive: Archive, source: Path, *, may_link: bool) -> None:
    """The newest has the name, each other one is under its hash; nothing is overwritten."""
    contents = [b"one", b"two", b"three", b"one", b"two"]
    for content in contents:
        kept = keep(archive, write(source, content), may_link=may_link)
        assert Path(kept.path).read_bytes() == content
        time.sleep(0.02)  # versions are sorted by the time of their move
    assert archive.originals.find("loras", NAME) == f"{archive.root}/loras/{NAME}"
    versions = archive.originals.versions("loras", NAME)
    assert [sha256 for sha256, _ in versions[:1]] == [sha(b"three")]
    assert {sha256: Path(path).read_bytes() for sha256, path in versions} == {
        sha(b"one"): b"one", sha(b"two"): b"two", sha(b"three"): b"three",
    }  # fmt: skip
    for sha256, path in versions:
        fd = archive.originals.open(path)
        assert sha(os.read(fd, 99)) == sha256
        os.close(fd)


def test_a_damaged_version_is_not_taken_for_its_name(archive: Archive, source: Path) -> None:
    """The path of a hash has other bytes: they move to `rescued`, and the right ones take it."""
    wrong = Path(archive.root) / ".versions" / sha(b"one") / "loras" / NAME
    write(wrong, b"rotten")
    keep(archive, write(source, b"one"))
    assert (Path(archive.root) / "loras" / NAME).read_bytes() == b"one"
    keep(archive, write(source, b"two"))
    assert wrong.read_bytes() == b"one"
    rescued = all_files(Path(archive.root) / "rescued")
    assert list(rescued.values()) == [b"rotten"]


def test_equal_files_in_two_folders_are_two_originals(archive: Archive, source: Path) -> None:
    """Two files with the same bytes under two paths."""
    for name in (NAME, "ink.safetensors", os.fsdecode(b"caf\xe9\n.safetensors")):
        assert keep(archive, source, name=name).path == f"{archive.root}/loras/{name}"
    assert len(all_files(archive.root)) == 3


def test_a_file_that_changes_meanwhile_is_not_archived(archive: Archive, source: Path) -> None:
    """Its job ends, and another job begins."""
    fd = os.open(source, os.O_RDONLY)
    identity = Identity.of(os.fstat(fd))
    source.write_bytes(b"theirs")
    for may_link in (True, False):
        with pytest.raises(Skipped) as caught:
            archive.keeper.keep(
                fd, identity, sha(b"original" * 1000), "loras", NAME, may_link=may_link
            )
        assert caught.value.reason == "changed"
    os.close(fd)
    assert all_files(archive.root) == {}


def test_a_copy_with_other_bytes_is_a_fault_of_the_disk(archive: Archive, source: Path) -> None:
    """The hash of the first reading counts; the incomplete copy is removed."""
    fd = os.open(source, os.O_RDONLY)
    with pytest.raises(Failed) as caught:
        archive.keeper.keep(
            fd,
            Identity.of(os.fstat(fd)),
            sha(b"what was read first"),
            "loras",
            NAME,
            may_link=False,
        )
    os.close(fd)
    assert caught.value.reason == "io_error"
    assert all_files(archive.root) == {}


def test_archiving_stops_when_asked(archive: Archive, source: Path) -> None:
    """SIGTERM does not wait for a large copy, and no incomplete copy stays."""
    fd = os.open(source, os.O_RDONLY)
    with pytest.raises(Interrupted):
        archive.keeper.keep(
            fd, Identity.of(os.fstat(fd)), sha(source.read_bytes()), "loras", NAME,
            may_link=False, stop=lambda: True,
        )  # fmt: skip
    os.close(fd)
    assert all_files(archive.root) == {}


@pytest.mark.slow
def test_a_full_archive_is_named_and_left_clean(small_disk: Path, source: Path) -> None:
    """The source stays, the message names the archive's disk, and a smaller file still fits."""
    archive = Archive(str(small_disk))
    with pytest.raises(Failed, match=str(small_disk)) as caught:
        keep(archive, write(source, bytes(2 * 2**20)), may_link=True)
    assert caught.value.reason == "no_space"
    assert all_files(small_disk) == {}
    keep(archive, write(source, b"small"))
    assert all_files(small_disk) == {f"loras/{NAME}": b"small"}


KEEP = """
import hashlib, os, sys
from lensd.errors import Failed
from lensd.store.archive import Archive
from lensd.store.identity import Identity
fd = os.open(sys.argv[2], os.O_RDONLY)
sha256 = hashlib.sha256(open(sys.argv[2], "rb").read()).hexdigest()
try:
    kept = Archive(sys.argv[1]).keeper.keep(
        fd, Identity.of(os.fstat(fd)), sha256, "loras", "f", may_link=sys.argv[3] == "link"
    )
    print(kept.method)
except Failed as error:
    print(error.reason)
"""


@pytest.mark.parametrize("how", ["link", "copy"])
def test_a_disk_that_cannot_sync_archives_nothing(
    archive: Archive, source: Path, run_refused: RunPython, how: str
) -> None:
    """With EIO on fsync the copy is not durable, so there is no archived original."""
    done = run_refused(KEEP, archive.root, source, how, refused={"fsync": errno.EIO})
    assert done.stdout == "io_error\n"
    assert all_files(archive.root) == {}


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP])
def test_where_links_are_refused_it_is_copied(
    archive: Archive, source: Path, run_refused: RunPython, code: int
) -> None:
    """By another mount, protected_hardlinks, the limit of links, or the filesystem."""
    done = run_refused(KEEP, archive.root, source, "link", refused={"linkat": code})
    assert done.stdout == "copy\n"
    assert all_files(archive.root) == {"loras/f": source.read_bytes()}


def test_without_renameat2_nothing_is_overwritten(
    archive: Archive, source: Path, run_refused: RunPython
) -> None:
    """Older originals still move aside."""
    for content in (b"one", b"two"):
        write(source, content)
        done = run_refused(KEEP, archive.root, source, "copy", refused={"renameat2": errno.EINVAL})
        assert done.stdout == "copy\n"
    assert all_files(archive.root) == {
        "loras/f": b"two", f".versions/{sha(b'one')}/loras/f": b"one",
    }  # fmt: skip


def test_the_archive_enters_no_links(archive: Archive, source: Path, tmp_path: Path) -> None:
    """A folder in it was replaced by a link: nothing is written to its target."""
    (tmp_path / "outside").mkdir()
    (Path(archive.root) / "loras").symlink_to(tmp_path / "outside")
    with pytest.raises(Skipped) as caught:
        keep(archive, source)
    assert caught.value.reason == "symlink"
    assert archive.originals.find("loras", NAME) is None
    assert list((tmp_path / "outside").iterdir()) == []


def test_an_archive_that_is_not_there_is_not_empty(tmp_path: Path, source: Path) -> None:
    """An unmounted disk must not look like an archive without originals."""
    archive = Archive(str(tmp_path / "gone"))
    for ask in (archive.originals.find, archive.originals.versions):
        with pytest.raises(StorageError, match="mount its disk"):
            ask("loras", NAME)
    with pytest.raises(StorageError):
        keep(archive, source)
    assert not (tmp_path / "gone").exists()


@pytest.mark.parametrize("watch", ["", "..", "a/b", ".versions", "rescued"])
def test_some_names_of_watched_folders_are_refused(archive: Archive, watch: str) -> None:
    """They would be paths outside of the archive, or its own folders."""
    with pytest.raises(ValueError, match="cannot be the name"):
        archive.originals.find(watch, NAME)


def test_rescued_bytes_keep_their_path_in_separate_folders(
    archive: Archive, tmp_path: Path, folder_fd: int
) -> None:
    """The same name can be rescued twice."""
    paths = []
    for content in (b"one", b"two"):
        (tmp_path / ".lensd-1.tmp").write_bytes(content)
        paths.append(Path(archive.rescuer.move(folder_fd, ".lensd-1.tmp", "loras", NAME)))
        assert paths[-1].read_bytes() == content
        assert not (tmp_path / ".lensd-1.tmp").exists()
    assert paths[0] != paths[1]
    assert all(path.match(f"rescued/*/loras/{NAME}") for path in paths)


def test_rescue_across_devices_copies_and_then_unlinks(
    other_device: Path, tmp_path: Path, folder_fd: int
) -> None:
    """The copy has the attributes."""
    (tmp_path / "x").write_bytes(b"theirs")
    os.utime(tmp_path / "x", ns=(3, 4))
    path = Path(Archive(str(other_device)).rescuer.move(folder_fd, "x", "loras", NAME))
    assert path.read_bytes() == b"theirs"
    assert path.stat().st_mtime_ns == 4
    assert not (tmp_path / "x").exists()


def test_rescue_across_devices_waits_for_writers(
    other_device: Path, tmp_path: Path, folder_fd: int
) -> None:
    """A copy would miss later writes: the file stays where it is."""
    with (tmp_path / "x").open("wb") as writer:
        writer.write(b"half")
        writer.flush()
        probe = os.open(tmp_path / "x", os.O_RDONLY)
        grants_leases = Lease.take(probe)
        os.close(probe)
        if grants_leases.name != "OPEN_WRITER":  # type: ignore[union-attr]
            pytest.skip("this filesystem grants no leases")
        with pytest.raises(Skipped) as caught:
            Archive(str(other_device)).rescuer.move(folder_fd, "x", "loras", NAME)
    assert caught.value.reason == "changed"
    assert (tmp_path / "x").read_bytes() == b"half"
    assert all_files(other_device) == {}


def test_removing_an_original_removes_its_empty_folders(archive: Archive, source: Path) -> None:
    """But not the folder of the watch, and no folder with another entry."""
    first = keep(archive, source)
    other = keep(archive, source, name="styles/deep/er/other.safetensors")
    archive.remover.remove(other.path)
    assert list(all_files(archive.root)) == [f"loras/{NAME}"]
    assert not Path(other.path).parent.parent.exists()
    archive.remover.remove(first.path)
    assert [Path(archive.root, "loras")] == list(Path(archive.root).rglob("*"))


def test_an_older_version_is_removed_with_the_folder_of_its_hash(
    archive: Archive, source: Path
) -> None:
    """The newest stays."""
    keep(archive, source)
    newest = keep(archive, write(source, b"newer"))
    [(_, older)] = archive.originals.versions("loras", NAME)
    archive.remover.remove(older)
    assert [] == archive.originals.versions("loras", NAME)
    assert list(all_files(archive.root)) == [f"loras/{NAME}"]
    assert Path(newest.path).read_bytes() == b"newer"
    assert list(Path(archive.root, ".versions").iterdir()) == []


@pytest.mark.parametrize(
    "path", ["../loras/ink", "loras/../../loras/ink", "ink", "", "loras//ink", "/etc/hostname"]
)
def test_nothing_outside_the_archive_is_removed(archive: Archive, path: str) -> None:
    """Also if the configuration names another archive than the ledger."""
    outside = write(Path(archive.root).parent / "loras/ink", b"theirs")
    with pytest.raises(StorageError, match="not an original in the archive"):
        archive.remover.remove(path if path.startswith("/") else f"{archive.root}/{path}")
    assert outside.read_bytes() == b"theirs"


def test_only_regular_files_are_removed_from_the_archive(archive: Archive, tmp_path: Path) -> None:
    """No link, no folder, and no file through a folder that is a link."""
    target = write(tmp_path / "elsewhere/x", b"theirs")
    loras = Path(archive.root, "loras")
    (loras / "folder").mkdir(parents=True)
    (loras / "link").symlink_to(target)
    (loras / "linked").symlink_to(target.parent)
    for name, reason in (
        ("link", "symlink"), ("folder", "not_regular"), ("linked/x", "symlink"),
    ):  # fmt: skip
        with pytest.raises(Skipped) as caught:
            archive.remover.remove(f"{loras}/{name}")
        assert caught.value.reason == reason
    with pytest.raises(FileNotFoundError):
        archive.remover.remove(f"{loras}/never")
    assert target.read_bytes() == b"theirs"
    assert (loras / "link").is_symlink()
    assert (loras / "folder").is_dir()


def test_folders_stay_while_something_is_put_into_the_archive(
    archive: Archive, source: Path
) -> None:
    """Another thread may have created a folder that is still empty."""
    kept = keep(archive, source)
    with archive.open_root.make_place("loras/styles/deep/new"):
        archive.remover.remove(kept.path)
    assert Path(archive.root, "loras/styles/deep").is_dir()


def test_a_link_is_removed_while_the_file_has_another_name(archive: Archive, source: Path) -> None:
    """In any folder; an original without another name stays, and so does another file."""
    identity = Identity.of(source.stat())
    kept = Path(keep(archive, source, may_link=True).path)
    archive.remover.remove_link("loras", NAME, identity._replace(inode=identity.inode + 1))
    assert kept.exists()
    moved = source.rename(source.with_name("moved"))
    archive.remover.remove_link("loras", NAME, identity)
    assert not kept.exists()
    assert moved.stat().st_nlink == 1
    kept = Path(keep(archive, moved, may_link=True).path)
    moved.unlink()
    archive.remover.remove_link("loras", NAME, identity)
    assert kept.exists()
    archive.remover.remove_link("loras", "styles/never", identity)


def test_incomplete_copies_are_swept_in_the_folder_of_a_job(archive: Archive, source: Path) -> None:
    """Beside the original and in `rescued`; there are none elsewhere."""
    beside = Path(keep(archive, source).path).with_name(temporary_name("beside"))
    elsewhere = write(Path(archive.root, "loras/other", temporary_name("elsewhere")), b"ha")
    rescued = write(Path(archive.root, "rescued/x/loras", copy_name()), b"ha")
    beside.write_bytes(b"ha")
    assert archive.sweeper.sweep_beside("loras", NAME) == 1
    assert archive.sweeper.sweep_beside("loras", "never/seen") == 0
    assert archive.sweeper.sweep_rescued() == 1
    assert not beside.exists()
    assert not rescued.exists()
    assert elsewhere.exists()


def test_no_sweep_unlinks_what_was_rescued(
    archive: Archive, tmp_path: Path, folder_fd: int
) -> None:
    """Nor if it was found under the name of a temporary, by this lensd or an older one."""
    stray = write(tmp_path / temporary_name("stray"), b"bytes of another program")
    older = write(Path(archive.root, "rescued/x/loras", temporary_name("older")), b"such bytes")
    path = archive.rescuer.move(folder_fd, stray.name, "loras", f"styles/{stray.name}")
    assert archive.sweeper.sweep() == archive.sweeper.sweep_rescued() == 0
    assert Path(path).exists()
    assert older.exists()


def test_incomplete_copies_of_a_killed_lensd_are_swept(archive: Archive, source: Path) -> None:
    """Other files stay."""
    kept = keep(archive, source)
    half = Path(kept.path).with_name(temporary_name("dead"))
    half.write_bytes(b"ha")
    assert archive.sweeper.sweep() == 1
    assert list(all_files(archive.root)) == [f"loras/{NAME}"]
    assert archive.sweeper.sweep() == 0


def test_a_copy_that_cannot_be_unlinked_ends_no_sweep(archive: Archive) -> None:
    """The archive is read-only; a later start unlinks it."""
    half = write(Path(archive.root, "rescued/x/loras", copy_name()), b"ha")
    with protected(half.parent, "i"):
        assert archive.sweeper.sweep_rescued() == 0
    assert archive.sweeper.sweep_rescued() == 1
