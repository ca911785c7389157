"""The folders of the archive are never more open than the watched folders that they mirror."""

from __future__ import annotations

import os
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lensd.store.archive import Archive
from lensd.store.archive.folders import mirror_back
from tests.store.conftest import RunPython
from tests.store.test_archive import keep, sha, write
from tests.support.marks import needs_program, needs_root

PRIVATE = "private/deep/ink.safetensors"


@pytest.fixture
def loras(tmp_path: Path) -> Path:
    (tmp_path / "loras/private/deep").mkdir(parents=True)
    (tmp_path / "loras").chmod(0o2750)
    (tmp_path / "loras/private").chmod(0o700)
    (tmp_path / "loras/private/deep").chmod(0o755)
    return tmp_path / "loras"


@pytest.fixture
def archive(tmp_path: Path, loras: Path) -> Archive:
    (tmp_path / "archive").mkdir(mode=0o750)
    return Archive(str(tmp_path / "archive"), {"loras": str(loras)})


def rights(folder: Path) -> tuple[str, int, int]:
    found = folder.stat()
    return oct(stat.S_IMODE(found.st_mode)), found.st_uid, found.st_gid


def test_folders_get_the_rights_that_they_mirror(archive: Archive, loras: Path) -> None:
    """Also those of older originals and of rescued files."""
    if os.geteuid() == 0:
        os.chown(loras / "private", 1234, 2345)
    keep(archive, write(loras / PRIVATE, b"one"), name=PRIVATE)
    keep(archive, write(loras / PRIVATE, b"two"), name=PRIVATE)
    folder_fd = os.open(loras / "private/deep", os.O_RDONLY)
    archive.rescuer.move(folder_fd, "ink.safetensors", "loras", PRIVATE)
    os.close(folder_fd)
    top = Path(archive.root)
    [rescued] = (top / "rescued").iterdir()
    for mirror in (top, top / ".versions" / sha(b"one"), rescued):
        for folder in (".", "private", "private/deep"):
            assert rights(mirror / "loras" / folder) == rights(loras / folder)
    for own, model in (
        (top / ".versions", top), (top / "rescued", top),
        (top / ".versions" / sha(b"one"), loras), (rescued, loras),
    ):  # fmt: skip
        assert rights(own) == rights(model)


def test_an_older_archive_is_tightened_when_a_file_comes(archive: Archive, loras: Path) -> None:
    """A folder that a person closed further stays closed."""
    old = Path(archive.root, "loras/private/deep")
    old.mkdir(parents=True)
    Path(archive.root, "loras").chmod(0o700)
    for folder in (old, old.parent):
        folder.chmod(0o755)
    archive.originals.find("loras", PRIVATE)
    assert rights(old.parent)[0] == "0o755"
    keep(archive, write(loras / PRIVATE, b"one"), name=PRIVATE)
    assert rights(old.parent)[0] == "0o700"
    assert rights(old)[0] == "0o755"
    assert rights(Path(archive.root, "loras"))[0] == "0o700"


def test_without_its_watched_folder_an_older_original_stays_private(
    archive: Archive, loras: Path
) -> None:
    """The folder of the newest original is the model then; without any only lensd may enter."""
    keep(archive, write(loras / PRIVATE, b"one"), name=PRIVATE)
    fd = os.open(loras / PRIVATE, os.O_RDONLY)
    os.close(fd)
    (loras / PRIVATE).unlink()
    (loras / "private/deep").rmdir()
    (loras / "private").rmdir()
    other = write(loras / "other", b"two")
    keep(archive, other, name=PRIVATE)
    keep(archive, other, name="unknown/x")
    assert rights(Path(archive.root, ".versions", sha(b"one"), "loras/private"))[0] == "0o700"
    assert Path(archive.root, "loras/unknown").stat().st_mode & 0o777 == 0o700


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that all users can read, which tmp_path is not."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


AS_ANOTHER_USER = """
import os, sys
from lensd.store.archive.folders import Model, enter_mirrored
os.setgroups([])
os.setresgid(int(sys.argv[1]), int(sys.argv[1]), int(sys.argv[1]))
os.setresuid(7777, 7777, 7777)
fd = os.open(sys.argv[2], os.O_RDONLY)
os.close(enter_mirrored(fd, "made", [Model(sys.argv[3])]))
"""


@needs_root
@pytest.mark.parametrize(
    ("mode", "group", "expected"),
    [(0o750, 2345, 0o750), (0o750, 7777, 0o700), (0o775, 7777, 0o755), (0o705, 7777, 0o700)],
)
def test_where_the_owner_cannot_be_set_nobody_else_may_more(
    run_python: RunPython, public: Path, mode: int, group: int, expected: int
) -> None:
    """lensd runs as a member of the group, or as another user with access."""
    model, target = public / "model", public / "target"
    for folder in (model, target):
        folder.mkdir()
    os.chown(model, 1234, 2345)
    model.chmod(mode)
    target.chmod(0o777)
    if not mode & 0o005 and group != 2345:
        subprocess.run(["setfacl", "-m", "u:7777:rx", str(model)], check=False)
    run_python(AS_ANOTHER_USER, group, target, model)
    found = (target / "made").stat()
    assert (oct(stat.S_IMODE(found.st_mode)), found.st_uid) == (oct(expected), 7777)


@needs_root
@needs_program("setfacl")
def test_an_acl_is_mirrored(archive: Archive, loras: Path) -> None:
    """Without it the bits of the group would mean the group, and not the ACL's users."""
    subprocess.run(["setfacl", "-m", "u:1234:rwx,g::---", str(loras / "private")], check=True)
    keep(archive, write(loras / PRIVATE, b"one"), name=PRIVATE)
    mirror = Path(archive.root, "loras/private")
    assert rights(mirror) == rights(loras / "private")
    acl = "system.posix_acl_access"
    assert os.getxattr(mirror, acl) == os.getxattr(loras / "private", acl)


def test_a_restore_makes_folders_with_the_rights_of_the_archive(
    archive: Archive, loras: Path
) -> None:
    """A folder of which the archive has no mirror gets the rights of the one above."""
    kept = keep(archive, write(loras / PRIVATE, b"one"), name=PRIVATE)
    wanted = [rights(loras / folder) for folder in ("private", "private/deep")]
    subprocess.run(["rm", "-r", str(loras / "private")], check=True)
    os.close(mirror_back(str(loras), "private/deep", kept.path))
    assert [rights(loras / folder) for folder in ("private", "private/deep")] == wanted
    os.close(mirror_back(str(loras), "else/where", kept.path))
    assert rights(loras / "else/where") == rights(loras)
    os.close(mirror_back(str(loras), "", kept.path))
