"""Mounts, as the kernel lists them in /proc/self/mountinfo (proc_pid_mountinfo(5))."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote_from_bytes

from lensd.store.paths import is_below

# A change that another computer makes, or the program behind a FUSE mount, is no inotify event.
_REMOTE = frozenset({
    "9p", "afs", "beegfs", "ceph", "cifs", "coda", "fuse", "fuseblk", "glusterfs", "gpfs", "lustre",
    "ncpfs", "nfs", "nfs4", "prl_fs", "smb3", "smbfs", "vboxsf", "virtiofs",
})  # fmt: skip
_OCTAL = re.compile(rb"\\([0-7]{3})")


class Mount(NamedTuple):
    """One line of mountinfo.

    `device` is the kernel's, which stat does not show on btrfs. `point` has the kernel's octal
    escapes. `depth` counts the mounts on this point, from the lowest up to this one.
    """

    number: int
    device: tuple[int, int]
    point: bytes
    kind: str
    depth: int
    root: bytes = b"/"  # the folder of its filesystem that the mount shows, escaped as `point`

    @property
    def path(self) -> str:
        """The mount point as a path."""
        return _unescape(self.point)

    @property
    def shows(self) -> str:
        """The folder of its filesystem that the mount shows; "/" but for bind mounts."""
        return _unescape(self.root)

    @property
    def is_remote(self) -> bool:
        return self.kind in _REMOTE or self.kind.startswith("fuse.")

    @property
    def name(self) -> str:
        """What distinguishes it from the mount above or below it, also after remounts and boots."""
        return f"{self.depth} {quote_from_bytes(self.point)}"


@lru_cache(maxsize=1024)  # for each job
def _unescape(path: bytes) -> str:
    if b"\\" not in path:
        return os.fsdecode(path)
    return os.fsdecode(_OCTAL.sub(lambda found: bytes([int(found[1], 8)]), path))


def point_of(name: str) -> str:
    """The quoted mount point in a Mount's name."""
    return name.partition(" ")[2]


def parse(mountinfo: bytes) -> Iterator[Mount]:
    """The mounts of a mountinfo text, in its order."""
    depths: dict[bytes, int] = {}
    for line in mountinfo.split(b"\n")[:-1]:  # a path may have any other line break
        fields, _, rest = line.partition(b" - ")
        number, _, device, root, point = fields.split(b" ")[:5]
        major, minor = device.split(b":")
        depths[point] = depths.get(point, 0) + 1
        kind = rest.partition(b" ")[0].decode("ascii", "replace")
        place = int(number), (int(major), int(minor)), point
        yield Mount(*place, kind, depths[point], root)


def read_mounts() -> list[Mount]:
    """The mounts that this process sees now."""
    return list(_parsed(_read("/proc/self/mountinfo")))


@lru_cache(maxsize=1)  # each job asks, and the table rarely changes
def _parsed(mountinfo: bytes) -> tuple[Mount, ...]:
    return tuple(parse(mountinfo))


def mount_of_folder(fd: int, mounts: Sequence[Mount] | None = None) -> Mount | None:
    """The mount that an open folder lies on; None when it was unmounted meanwhile."""
    info = _read(f"/proc/self/fdinfo/{fd}").splitlines()
    number = next(int(line[7:]) for line in info if line.startswith(b"mnt_id:"))
    known = read_mounts() if mounts is None else mounts
    return next((mount for mount in known if mount.number == number), None)


def _read(path: str) -> bytes:
    """Without the calls by which open() prepares a buffer: each job reads these files."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return b"".join(iter(lambda: os.read(fd, 1 << 16), b""))
    finally:
        os.close(fd)


def mount_of(path: str, points: Iterable[str]) -> str:
    """The mount point that an absolute path without links lies on, whether it exists or not."""
    return max((point for point in points if is_below(path, point)), key=len, default="/")
