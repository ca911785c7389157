"""What a start, and `lensd status` and `check`, do with the proof of each filesystem."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.disks import Mounts, fill
from tests.support.home_server import HomeServer
from tests.support.realistic import small_lora


@pytest.mark.slow
def test_a_full_disk_does_not_end_a_start(tmp_path: Path) -> None:
    """Its proof is not known, and is made at the first job after there is space again."""
    with Mounts() as mounts:
        disk = mounts.tmpfs(tmp_path / "disk")
        server = HomeServer(tmp_path)
        server.loras = _folder(disk / "loras")
        server.configure()
        ballast = fill(disk, leave=0)
        with server.daemon() as daemon:
            daemon.wait_for_event("daemon.ready")
            [found] = [f for f in server.status()["filesystems"] if f["point"] == str(disk)]
            assert found["commits_by"] is None
            assert "No space" in found["unknown_because"]
            assert "not proven yet" in server.lensd("check").stdout
            ballast.unlink()
            line = daemon.wait_for_file(small_lora(server.loras / "f.safetensors").path)
            assert line["publish"] == "exchange"
            [found] = [f for f in server.status()["filesystems"] if f["point"] == str(disk)]
            assert found["commits_by"] == "exchange"


@pytest.mark.slow
def test_each_mount_is_proven_once(tmp_path: Path) -> None:
    """Also a mount that appears below a watched folder while lensd runs.

    Where lensd watches the folder before something is mounted on it, only a rescan finds files.
    """
    with Mounts() as mounts:
        server = HomeServer(tmp_path)
        server.configure(settle={"rescan_seconds": 1})
        with server.daemon() as daemon:
            daemon.wait_for_event("daemon.ready")
            assert len(server.status()["filesystems"]) == 1  # of archive and folder
            disk = mounts.bindfs(server.loras / "disk", _folder(tmp_path / "below"))
            line = daemon.wait_for_file(small_lora(disk / "f.safetensors").path)
            assert line["publish"] == "link"
            kinds = {f["point"]: f["kind"] for f in server.status()["filesystems"]}
            assert kinds[str(disk)].startswith("fuse")


def _folder(path: Path) -> Path:
    path.mkdir(parents=True)
    return path
