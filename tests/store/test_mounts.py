"""Lines of mountinfo."""

from __future__ import annotations

import os

from lensd.store.mounts import mount_of, mount_of_folder, parse, point_of, read_mounts

TABLE = (
    rb"""22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
31 22 0:41 / /srv/my\040disk rw,relatime shared:1 master:2 - nfs4 server:/x rw
32 31 7:3 / /srv/my\040disk rw - xfs /dev/loop3 rw
33 22 0:50 /loras /srv/m rw - fuse.mergerfs a:b rw
34 22 0:51 / /srv/caf"""
    + "é".encode("latin-1")
    + b""" rw - fuseblk /dev/sdb1 rw
35 22 0:52 / /srv/a\rb rw - tmpfs tmpfs rw
"""
)


def test_a_table() -> None:
    """Numbers, devices, kinds; two mounts on one point differ in depth; names are ASCII."""
    mounts = list(parse(TABLE))
    assert [22, 31, 32, 33, 34, 35] == [mount.number for mount in mounts]
    assert (254, 0) == mounts[0].device
    assert [mount.name for mount in mounts] == [
        "1 /",
        "1 /srv/my%5C040disk",
        "2 /srv/my%5C040disk",
        "1 /srv/m",
        "1 /srv/caf%E9",
        "1 /srv/a%0Db",
    ]
    assert [False, True, False, True, True, False] == [mount.is_remote for mount in mounts]
    assert point_of(mounts[1].name) == point_of(mounts[2].name)


def test_the_paths_of_mount_points() -> None:
    """The kernel writes octal escapes, and bytes that are not UTF-8."""
    points = [mount.path for mount in parse(TABLE)]
    assert ["/", "/srv/my disk", "/srv/my disk", "/srv/m", "/srv/caf\udce9", "/srv/a\rb"] == points
    assert mount_of("/srv/caf\udce9/x", points) == "/srv/caf\udce9"
    assert mount_of("/srv/my disk", points) == "/srv/my disk"
    assert mount_of("/srv/my disks", points) == "/"


def test_the_real_one() -> None:
    """/proc lies on a mount of its own."""
    fd = os.open("/proc", os.O_PATH | os.O_DIRECTORY)
    try:
        mount = mount_of_folder(fd)
    finally:
        os.close(fd)
    assert mount is not None
    assert mount in read_mounts()
    assert (mount.kind, mount.path) == ("proc", "/proc")
