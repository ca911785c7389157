"""What filesystems do, proven on real mounts; and which leases prove something."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lensd.store.filesystem import enforces_leases
from lensd.store.lease import Lease, Refusal
from lensd.store.probe import Proof, Way, prove
from lensd.store.swap import swap
from tests.support.disks import Mounts, remount
from tests.support.filesystems import KINDS, mount

WAYS: dict[str, tuple[bool, Way]] = {  # whether leases prove something, and the way of a commit
    "ext4": (True, "exchange"),
    "xfs": (True, "exchange"),
    "btrfs": (True, "exchange"),
    "tmpfs": (True, "exchange"),
    "overlay": (False, "exchange"),
    "fuse-overlayfs": (False, "exchange"),
    "bindfs": (False, "link"),
    "mergerfs": (False, "link"),
    "ntfs-3g": (False, "link"),
    "exfat-fuse": (False, "rename"),
    "sshfs": (False, "rename"),
}


@contextmanager
def opened(path: Path, flags: int = os.O_RDONLY) -> Iterator[int]:
    fd = os.open(path, flags)
    yield fd
    os.close(fd)


def proof_of(folder: Path) -> Proof:
    with opened(folder) as fd:
        return prove(fd)


@pytest.mark.slow
@pytest.mark.parametrize("kind", WAYS)
def test_each_filesystem(tmp_path: Path, kind: str) -> None:
    """The proof names the way; swap() takes it; a lease counts only where it is enforced."""
    assert set(WAYS) == set(KINDS)
    enforces, way = WAYS[kind]
    with Mounts() as mounts:
        folder = mount(mounts, kind, tmp_path).folder
        proof = proof_of(folder)
        assert (proof.enforces_leases, proof.way) == (enforces, way)
        assert proof.grants_leases
        (folder / "a").write_bytes(b"new")
        (folder / "b").write_bytes(b"original")
        with opened(folder / "b") as fd:
            lease = Lease.take(fd)
            assert isinstance(lease, Lease) == enforces
            if isinstance(lease, Lease):
                lease.release()
        with opened(folder) as fd:
            if way == "rename":
                with pytest.raises(OSError, match="not supported"):
                    swap(fd, "a", "b")
            else:
                assert swap(fd, "a", "b") == way
                assert (folder / "b").read_bytes() == b"new"
                assert (folder / "a").read_bytes() == b"original"
        assert sorted(p.name for p in folder.iterdir() if p.is_file()) == ["a", "b"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bindfs", "exfat-fuse"])
def test_a_writer_is_seen_where_leases_prove_nothing(tmp_path: Path, kind: str) -> None:
    """A refused lease still shows a program that has the file open through the same mount."""
    with Mounts() as mounts:
        path = mount(mounts, kind, tmp_path).folder / "f"
        path.write_bytes(b"x")
        with opened(path, os.O_RDWR), opened(path) as fd:
            assert Lease.take(fd) is Refusal.OPEN_WRITER


@pytest.mark.slow
def test_the_root_overlay_of_a_container_counts() -> None:
    """Its layers are not visible in it; those of any other overlay may be."""
    with opened(Path("/")) as fd:
        proof = prove(fd) if os.access("/", os.W_OK) else None
        if proof is None or proof.kind not in ("ext4", "xfs", "btrfs", "overlay"):
            pytest.skip("the root filesystem is of another kind")
        assert enforces_leases(fd)


@pytest.mark.slow
def test_a_read_only_disk_is_not_proven(tmp_path: Path) -> None:
    """The caller gets the kernel's error; nothing was written."""
    with Mounts() as mounts:
        disk = mounts.tmpfs(tmp_path / "disk")
        remount(disk, read_only=True)
        with pytest.raises(OSError, match="Read-only"):
            proof_of(disk)


def test_files_of_a_killed_probe_are_removed(tmp_path: Path) -> None:
    """And nothing else."""
    for name in (".lensd-probe-1.tmp", ".lensd-1.tmp", "probe-1"):
        (tmp_path / name).touch()
    proof_of(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {".lensd-1.tmp", "probe-1"}
