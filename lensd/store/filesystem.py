"""Which filesystems enforce leases against every writer (docs/decisions/0029).

The kernel grants a lease on nearly every filesystem. It proves something only where each writer
goes through the same inode of the same kernel: a FUSE filesystem shows files that a program may
also write to by the path below it, and a network filesystem has writers on other machines.
"""

from __future__ import annotations

import ctypes
import os
import platform

from lensd.store.mounts import Mount, mount_of_folder

# statfs(2): ext2/3/4, XFS, btrfs, F2FS, bcachefs, tmpfs. ZFS is not proven here.
_ENFORCING = frozenset({
    0xEF53, 0x58465342, 0x9123683E, 0xF2F52010, 0xCA451A4E, 0x01021994,
})  # fmt: skip
_OVERLAY = 0x794C7630


def enforces_leases(fd: int) -> bool:
    """Whether a lease on an open file, or on a file of an open folder, stops every writer."""
    kind = _type_of(fd)
    return kind in _ENFORCING or (kind == _OVERLAY and _is_on_root_mount(fd))


def _is_on_root_mount(fd: int) -> bool:
    """Whether an overlay is the root filesystem: that of a container, whose layers are private."""
    mount, root = mount_of_folder(fd), _root_mount()
    return mount is not None and root is not None and mount.device == root.device


def _root_mount() -> Mount | None:
    fd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return mount_of_folder(fd)
    finally:
        os.close(fd)


def _type_of(fd: int) -> int | None:
    """The type of a filesystem as in statfs(2), None if the kernel does not report it."""
    word = ctypes.c_uint32 if platform.machine() == "s390x" else ctypes.c_ulong
    statfs = ctypes.create_string_buffer(512)  # its first member is the type
    if ctypes.CDLL(None).fstatfs(ctypes.c_int(fd), statfs):
        return None
    return word.from_buffer(statfs).value & 0xFFFFFFFF
