"""The version of a file that a job belongs to."""

from __future__ import annotations

import os
from typing import NamedTuple


class Identity(NamedTuple):
    """One version of one inode. Nanoseconds; any write, chmod or link changes `ctime_ns`."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, stat: os.stat_result) -> Identity:
        return cls(stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)

    def same_inode(self, other: Identity) -> bool:
        return (self.device, self.inode) == (other.device, other.inode)

    def same_content(self, other: Identity) -> bool:
        """Equal in all but ctime, which a hard link or a chmod by lensd changes too."""
        return self[:4] == other[:4]
