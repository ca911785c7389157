"""On which mount a folder lies, as the kernel tells (/proc/self/mountinfo)."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import quote_from_bytes

# A change that another computer makes, or the program behind a FUSE mount, is no inotify event.
_REMOTE = frozenset({
    "9p", "afs", "beegfs", "ceph", "cifs", "coda", "fuse", "fuseblk", "glusterfs", "gpfs", "lustre",
    "ncpfs", "nfs", "nfs4", "prl_fs", "smb3", "smbfs", "vboxsf", "virtiofs",
})  # fmt: skip


class Mount(NamedTuple):
    """One line of mountinfo. `device` as the kernel has it: btrfs shows another one to stat."""

    number: int
    device: tuple[int, int]
    point: bytes
    kind: str
    depth: int  # how many mounts lie on this point, up to this one

    @property
    def is_remote(self) -> bool:
        return self.kind in _REMOTE or self.kind.startswith("fuse.")

    @property
    def name(self) -> str:
        """What tells it from the mount above or below it, and stays across remounts and boots."""
        return f"{self.depth} {quote_from_bytes(self.point)}"


def point_of(name: str) -> str:
    """The quoted mount point in a Mount's name."""
    return name.partition(" ")[2]


def parse(mountinfo: bytes) -> dict[int, Mount]:
    """Every mount by its number."""
    found: dict[int, Mount] = {}
    depths: dict[bytes, int] = {}
    for line in mountinfo.splitlines():
        fields, _, rest = line.partition(b" - ")
        number, _, device, _, point = fields.split(b" ")[:5]
        major, minor = device.split(b":")
        depths[point] = depths.get(point, 0) + 1
        found[int(number)] = Mount(
            int(number),
            (int(major), int(minor)),
            point,
            rest.split(b" ")[0].decode("ascii", "replace"),
            depths[point],
        )
    return found


def mount_of(fd: int) -> Mount | None:
    """The mount that an open folder lies on; None when it was taken away meanwhile."""
    with open(f"/proc/self/fdinfo/{fd}", "rb") as info:
        number = next(int(line[7:]) for line in info if line.startswith(b"mnt_id:"))
    with open("/proc/self/mountinfo", "rb") as table:
        return parse(table.read()).get(number)
