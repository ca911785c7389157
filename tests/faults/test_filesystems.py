"""The real daemon on filesystems whose leases, exchanges and inodes prove nothing."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

from lensd.store.ledger import LEDGER
from tests.support.disks import Mounts
from tests.support.filesystems import Mounted, mount
from tests.support.home_server import HomeServer, wait_until
from tests.support.realistic import small_lora

pytestmark = [pytest.mark.slow, pytest.mark.fault("filesystem")]

WHEN = ("running", "staged", "published")
LONG_QUIET = 3.0  # in which a test writes to the file that came out of the exchange


class Scene(NamedTuple):
    """A server whose watched folder is a mounted filesystem."""

    server: HomeServer
    mounted: Mounted

    def state(self) -> str | None:
        """The state of the newest job."""
        with closing(sqlite3.connect(self.server.state / LEDGER)) as db:
            rows = db.execute("SELECT state FROM files ORDER BY id DESC LIMIT 1").fetchall()
        return rows[0][0] if rows else None

    def everywhere(self) -> list[bytes]:
        """The bytes of each file in the watched folder and in the archive."""
        tops = (self.server.loras, self.server.archive)
        return [p.read_bytes() for top in tops for p in top.rglob("*") if p.is_file()]

    def restore(self, path: Path) -> None:
        done = self.server.lensd("restore", path)
        assert done.returncode == 0, done.stderr


@pytest.fixture
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Scene]:
    """The parameter is the kind of the filesystem."""
    (tmp_path / "mounts").mkdir()
    with Mounts() as mounts:
        mounted = mount(mounts, request.param, tmp_path / "mounts")
        server = HomeServer(tmp_path)
        server.loras = mounted.folder / "loras"
        server.loras.mkdir()
        server.configure()
        yield Scene(server, mounted)


@pytest.mark.parametrize(
    ("scene", "way"),
    [
        ("bindfs", "link"),
        ("mergerfs", "link"),
        ("ntfs-3g", "link"),
        ("exfat-fuse", "rename"),
        ("sshfs", "rename"),
        ("overlay", "exchange"),
        ("fuse-overlayfs", "exchange"),
        ("xfs", "exchange"),
    ],
    indirect=["scene"],
)
def test_files_are_compressed_and_come_back(scene: Scene, way: str) -> None:
    """The proof is in `status` and `check`; the original is copied where no lease is enforced."""
    server = scene.server
    paths = [server.loras / f"{n}.safetensors" for n in range(3)]
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        made = [server.make(path.name, seed=seed).path for seed, path in enumerate(paths)]
        before = [path.read_bytes() for path in made]
        for here, path in zip(made, paths, strict=True):
            shutil.copyfile(here, path)
        found = daemon.wait_for_files(paths)
        assert [line["event"] for line in found.values()] == ["file.compressed"] * 3
        is_enforced = way == "exchange" and not str(scene.mounted.below or "")
        for line in found.values():
            assert line["publish"] == way
            assert line["lease"] == is_enforced
            assert line["archive_method"] in ("copy", "reflink")
        status = server.status()
        proofs = {proof["point"]: proof for proof in status["filesystems"]}
        assert proofs[str(scene.mounted.folder)]["commits_by"] == way
        for path in paths:
            scene.restore(path)
        assert [path.read_bytes() for path in paths] == before
        assert daemon.stop() == 0
    assert f"{scene.mounted.folder}: {status['filesystems'][-1]['kind']}" in (
        server.lensd("check").stdout
    )
    assert not server.temporaries()
    assert not list((server.archive / "rescued").rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("scene", "when"),
    [
        *((kind, when) for kind in ("bindfs", "mergerfs", "overlay") for when in WHEN),
        ("sshfs", "staged"),
    ],
    indirect=["scene"],
)
def test_a_writer_below_keeps_its_bytes(scene: Scene, when: str) -> None:
    """It has the file open on the filesystem below, and sets the old times again.

    The archived original is not a link, so that it stays as it was.
    """
    server, below = scene.server, scene.mounted.below
    assert below is not None
    server.configure(settle={"quiet_seconds": LONG_QUIET, "unproven_seconds": LONG_QUIET})
    path = server.loras / "f.safetensors"
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        made = server.make("original.safetensors", seed=1).path
        original = made.read_bytes()
        newer = server.make("newer.safetensors", seed=2).path.read_bytes()
        assert len(newer) == len(original)
        shutil.copyfile(made, path)
        fd = os.open(below / "loras" / path.name, os.O_RDWR)
        times = os.fstat(fd)
        wait_until(lambda: scene.state() in WHEN[WHEN.index(when) :], f"the job is {when}")
        assert os.fstat(fd).st_nlink > 0
        os.pwrite(fd, newer, 0)
        os.utime(fd, ns=(times.st_atime_ns, times.st_mtime_ns))
        daemon.wait_for_file(path)
        os.close(fd)
        assert daemon.stop() == 0
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        daemon.stop()
    assert newer in scene.everywhere()
    archived = server.archived(path)
    assert not archived.exists() or archived.read_bytes() in (original, newer)
    assert not server.temporaries()


@pytest.mark.parametrize("scene", ["overlay"], indirect=True)
def test_a_lower_file_is_compressed(scene: Scene, tmp_path: Path) -> None:
    """An exchange copies it up, which may give it another inode; the file below stays."""
    lower = tmp_path / "mounts" / "lower" / "set"
    lower.mkdir()
    small_lora(lower / "f.safetensors", seed=1)
    original = (lower / "f.safetensors").read_bytes()
    with Mounts() as mounts:
        (tmp_path / "second" / "upper").mkdir(parents=True)
        disk = mounts.overlay(tmp_path / "second/disk", lower, tmp_path / "second/upper")
        scene.server.loras = disk
        scene.server.configure(watch=[{"path": str(disk), "existing": "compress"}])
        [line] = [e for e in scene.server.once() if e["event"] == "file.compressed"]
        assert not line["lease"]
        scene.restore(disk / "f.safetensors")
        assert (disk / "f.safetensors").read_bytes() == original
    assert (lower / "f.safetensors").read_bytes() == original


@pytest.mark.parametrize("scene", ["mergerfs"], indirect=True)
def test_large_inodes_end_nothing(scene: Scene) -> None:
    """Inodes of mergerfs have 64 bits; one of these files has the highest one set."""
    server = scene.server
    paths: list[Path] = []
    while not paths or paths[-1].stat().st_ino < 2**63:
        paths.append(server.loras / f"{len(paths)}.safetensors")
        small_lora(paths[-1], seed=len(paths))
    server.configure(watch=[{"path": str(server.loras), "existing": "compress"}])
    for path in paths[:-2]:
        path.unlink()
    with server.daemon() as daemon:
        line = daemon.wait_for_file(paths[-1])
        assert line["event"] == "file.compressed"
        assert daemon.stop() == 0
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        assert daemon.stop() == 0
    scene.restore(paths[-1])
