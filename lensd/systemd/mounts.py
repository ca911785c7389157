"""Mount points, as the kernel lists them in /proc/PID/mountinfo (proc_pid_mountinfo(5))."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from lensd.store.paths import is_below

_OCTAL = re.compile(rb"\\([0-7]{3})")


def mount_points(mountinfo: bytes) -> tuple[str, ...]:
    """The mount points of a mountinfo text, in its order."""
    fields = (line.split(b" ") for line in mountinfo.splitlines())
    return tuple(os.fsdecode(_unescaped(field[4])) for field in fields if len(field) > 4)


def mount_of(path: str, points: Iterable[str]) -> str:
    """The mount point that an absolute path without links lies on, whether it exists or not."""
    return max((point for point in points if is_below(path, point)), key=len, default="/")


def _unescaped(field: bytes) -> bytes:
    return _OCTAL.sub(lambda found: bytes([int(found[1], 8)]), field)
