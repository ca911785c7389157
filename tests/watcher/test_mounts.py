"""Lines of mountinfo."""

from __future__ import annotations

import os

from lensd.watcher.mounts import mount_of, parse, point_of

TABLE = (
    rb"""22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
31 22 0:41 / /srv/my\040disk rw,relatime shared:1 master:2 - nfs4 server:/x rw
32 31 7:3 / /srv/my\040disk rw - xfs /dev/loop3 rw
33 22 0:50 /loras /srv/m rw - fuse.mergerfs a:b rw
34 22 0:51 / /srv/caf"""
    + "é".encode("latin-1")
    + rb""" rw - fuseblk /dev/sdb1 rw
"""
)


def test_a_table() -> None:
    """Numbers, devices, kinds; two mounts on one point differ in depth; names are ASCII."""
    mounts = parse(TABLE)
    assert [22, 31, 32, 33, 34] == sorted(mounts)
    assert (254, 0) == mounts[22].device
    assert ["1 /", "1 /srv/my%5C040disk", "2 /srv/my%5C040disk", "1 /srv/m", "1 /srv/caf%E9"] == [
        mounts[n].name for n in sorted(mounts)
    ]
    assert [False, True, False, True, True] == [mounts[n].is_remote for n in sorted(mounts)]
    assert point_of(mounts[31].name) == point_of(mounts[32].name)


def test_the_real_one() -> None:
    """/proc lies on a mount of its own."""
    fd = os.open("/proc", os.O_PATH | os.O_DIRECTORY)
    try:
        mount = mount_of(fd)
    finally:
        os.close(fd)
    assert mount is not None
    assert (mount.kind, mount.point) == ("proc", b"/proc")
