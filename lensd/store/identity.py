"""The version of a file that a job belongs to.

Some filesystems have inode numbers of 2^63 and more (mergerfs), or times after the year 2262.
SQLite has no such integers. So each number is the signed integer of its lowest 64 bits, everywhere.
"""

from __future__ import annotations

import os
from typing import NamedTuple

_HALF = 2**63


def signed(number: int) -> int:
    """The lowest 64 bits of a number as a signed integer. Different inodes stay different."""
    return (number + _HALF) % (2 * _HALF) - _HALF


class Identity(NamedTuple):
    """One version of one inode. Nanoseconds; any write, chmod or link changes `ctime_ns`."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, stat: os.stat_result) -> Identity:
        found = stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
        if min(found) >= -_HALF and max(found) < _HALF:  # as nearly always
            return cls(*found)
        return cls(*map(signed, found))

    def same_inode(self, other: Identity) -> bool:
        return (self.device, self.inode) == (other.device, other.inode)

    def same_content(self, other: Identity) -> bool:
        """Equal in all but ctime, which a hard link or a chmod by lensd changes too."""
        return self[:4] == other[:4]
