"""Every filesystem that a test or a table can mount here, with the folder that lies below it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.support.disks import Mounts


class Mounted(NamedTuple):
    """A mounted folder. `below`: the same files on another filesystem, None if there are none."""

    folder: Path
    below: Path | None = None


def _disk(kind: str) -> Callable[[Mounts, Path], Mounted]:
    return lambda mounts, top: Mounted(mounts.made(top / "disk", kind))


def _bindfs(mounts: Mounts, top: Path) -> Mounted:
    below = _folder(top / "below")
    return Mounted(mounts.bindfs(top / "disk", below), below)


def _mergerfs(mounts: Mounts, top: Path) -> Mounted:
    below = _folder(top / "below")
    return Mounted(mounts.mergerfs(top / "disk", below), below)


def _sshfs(mounts: Mounts, top: Path) -> Mounted:
    below = _folder(top / "below")
    return Mounted(mounts.sshfs(top / "disk", below), below)


def _overlay(program: str) -> Callable[[Mounts, Path], Mounted]:
    def mount(mounts: Mounts, top: Path) -> Mounted:
        lower, upper = _folder(top / "lower"), _folder(top / "upper")
        return Mounted(mounts.overlay(top / "disk", lower, upper, program), upper)

    return mount


def _folder(path: Path) -> Path:
    path.mkdir(parents=True)
    return path


KINDS: dict[str, Callable[[Mounts, Path], Mounted]] = {
    "ext4": _disk("ext4"),
    "xfs": _disk("xfs"),
    "btrfs": _disk("btrfs"),
    "tmpfs": lambda mounts, top: Mounted(mounts.tmpfs(top / "disk")),
    "overlay": _overlay("overlay"),
    "fuse-overlayfs": _overlay("fuse-overlayfs"),
    "sshfs": _sshfs,
    "bindfs": _bindfs,
    "mergerfs": _mergerfs,
    "ntfs-3g": lambda mounts, top: Mounted(mounts.ntfs(top / "disk")),
    "exfat-fuse": lambda mounts, top: Mounted(mounts.exfat(top / "disk")),
}


def mount(mounts: Mounts, kind: str, top: Path) -> Mounted:
    """Mount a filesystem of a kind below `top`; skips where that is not possible."""
    return KINDS[kind](mounts, top)
