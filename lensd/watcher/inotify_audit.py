"""Which folders the kernel really watches, and which setting makes it watch all of them.

/proc/self/fdinfo of an inotify descriptor lists its watches.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from lensd.errors import DegradedReason
from lensd.store.mounts import mount_of_folder
from lensd.watcher.root_identity import Problem
from lensd.watcher.scan import folders_below

Node = tuple[tuple[int, int], int]  # device as the kernel has it, inode

_LIMIT = "/proc/sys/fs/inotify/max_user_watches"
_NAMESPACE_LIMIT = "/proc/sys/user/max_inotify_watches"
_LEAST = 8192


class Audit(NamedTuple):
    """`missing`: folders without a watch, relative to the root; None: the filesystem hides it."""

    folders: int
    missing: list[str] | None


def watched(inotify: int) -> set[Node]:
    """The folders that an inotify descriptor of this process watches."""
    with open(f"/proc/self/fdinfo/{inotify}", encoding="ascii", errors="replace") as info:
        return set(parse(info))


def parse(lines: Iterable[str]) -> Iterator[Node]:
    """`inotify wd:1 ino:aa81f0 sdev:fe00000 ...`: hexadecimal; 20 bits of the device are minor."""
    for line in lines:
        if line.startswith("inotify "):
            fields = dict(part.split(":", 1) for part in line.split()[1:] if ":" in part)
            device = int(fields["sdev"], 16)
            yield (device >> 20, device & 0xFFFFF), int(fields["ino"], 16)


def audit(
    root: str,
    device: tuple[int, int] | None,
    nodes: set[Node],
    *,
    recursive: bool,
    progress: Callable[[], None] = lambda: None,
) -> Audit:
    """Compare a root's folders with the watches. Raises OSError when the root cannot be read.

    Some filesystems (overlayfs) show other numbers in fdinfo than in stat. If not even the root is
    found, which always has a watch, `missing` is None. `progress` is called for each folder.
    """
    watched_root = os.stat(root)
    is_hidden = device is None or (device, watched_root.st_ino) not in nodes
    devices: dict[int, tuple[int, int] | None] = {watched_root.st_dev: device}
    count, missing = 0, []
    for folder, found in folders_below(root, recursive=recursive):
        progress()
        count += 1
        if is_hidden:
            continue
        if found.st_dev not in devices:  # a mount, or a btrfs subvolume, inside the root
            devices[found.st_dev] = _device_of(os.path.join(root, folder))
        if (devices[found.st_dev], found.st_ino) not in nodes:
            missing.append(folder)
    return Audit(count, None if is_hidden else missing)


def limit_reached(missing: int, folders: int, example: str) -> Problem:
    """`missing` of the folders have no watch, among them `example`."""
    setting = remedy(missing, folders, _read(_LIMIT), _read(_NAMESPACE_LIMIT))
    return Problem(
        DegradedReason.WATCH_LIMIT,
        f"the kernel watches only {folders - missing} of {folders} folders (not {example}, for "
        "example), so lensd scans all of them every `settle.rescan_seconds`. Raise the limit: "
        f"sudo sysctl {setting} (to keep it, also as a line of /etc/sysctl.d/60-lensd.conf)",
    )


def instances_reached() -> Problem:
    """The kernel gives this user no further inotify descriptor."""
    limit = _read("/proc/sys/fs/inotify/max_user_instances") or 128
    namespaced = _read("/proc/sys/user/max_inotify_instances")
    key = "fs.inotify.max_user_instances"
    if namespaced is not None and namespaced < limit:
        key = "user.max_inotify_instances"
    return Problem(
        DegradedReason.WATCH_LIMIT,
        "the kernel gives lensd no inotify instance for this folder, so lensd only scans it every "
        f"`settle.rescan_seconds`. Raise the limit: sudo sysctl {key}={limit * 2} (to keep it, "
        "also as a line of /etc/sysctl.d/60-lensd.conf)",
    )


def remedy(missing: int, folders: int, limit: int | None, namespaced: int | None) -> str:
    """The setting to change; `namespaced` is the limit of a container, if there is one."""
    if namespaced is not None and (limit is None or namespaced < limit):
        return f"user.max_inotify_watches={enough(namespaced, missing)}"
    known = folders - missing if limit is None else limit
    return f"fs.inotify.max_user_watches={enough(known, missing)}"


def enough(limit: int, missing: int) -> int:
    """A limit with a reserve: the next power of two above twice the missing watches."""
    return max(_LEAST, 1 << (limit + 2 * missing).bit_length())


def _read(path: str) -> int | None:
    try:
        with open(path, encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):  # ProcSubset=pid hides it
        return None


def _device_of(path: str) -> tuple[int, int] | None:
    try:
        fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        mount = mount_of_folder(fd)
    finally:
        os.close(fd)
    return mount and mount.device
