"""Proves with small files of lensd's own what a filesystem does, whatever its system calls report.

exfat-fuse reports success for an exchange of two names and renames one file over the other; if the
other file is open, it crashes. So no file is open here when its name changes, and the exchange is
tried last.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from typing import Literal

import msgspec

from lensd.store.filesystem import enforces_leases
from lensd.store.fs import identity_at, new_token, temporary_name
from lensd.store.identity import Identity
from lensd.store.mounts import mount_of_folder
from lensd.store.rename import NotSupported, exchange, rename_noreplace
from lensd.store.staging import create

# How an output takes the name of its original. "link": the original gets a second name first.
Way = Literal["exchange", "link", "rename"]

_SCRATCH = "probe-"
_TICK_SECONDS = 0.011  # of the kernel's coarse clock, by which it sets times
_RESOLUTIONS_NS = (2 * 10**9, 10**9, 10**7, 10**6, 10**3, 100, 1)


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """What a filesystem did with lensd's own files; None: not proven."""

    point: str  # where it is mounted
    kind: str  # as /proc/self/mountinfo has it: ext4, fuse.bindfs, ...
    enforces_leases: bool  # against every writer; else lensd acts as if there were no leases
    unknown_because: str | None = None  # why nothing could be tried: it is full, or read-only
    grants_leases: bool | None = None
    exchange: bool | None = None
    exchange_sets_ctime: bool | None = None
    rename_noreplace: bool | None = None
    hard_links: bool | None = None
    folder_fsync: bool | None = None
    case_sensitive: bool | None = None
    stable_inodes: bool | None = None  # the same after close and open, and after a rename
    wide_inodes: bool | None = None  # of more than 32 bits
    ctime_resolution_ns: int | None = None

    @property
    def way(self) -> Way | None:
        """The safest way of a commit here; None: not known yet."""
        if self.exchange is None:
            return None
        if self.exchange:
            return "exchange"
        is_link_safe = self.hard_links and self.stable_inodes and not self.enforces_leases
        return "link" if is_link_safe else "rename"


def prove(folder_fd: int, between: Callable[[], None] = lambda: None) -> Proof:
    """Try what the filesystem of an open folder does.

    `between` is called between two looks at an inode (bench/filesystems drops the kernel's caches
    there). Raises OSError where no file can be created.
    """
    _sweep(folder_fd)
    with _scratch(folder_fd) as (a, b, c):
        return msgspec.structs.replace(
            unproven(folder_fd, None),
            stable_inodes=_keeps_inodes(folder_fd, a, c, between),
            wide_inodes=max(_inode(folder_fd, a), _inode(folder_fd, b)) >= 2**32,
            case_sensitive=identity_at(folder_fd, a.upper()) is None,
            rename_noreplace=_refuses_to_replace(folder_fd, a, b, c),
            hard_links=_links(folder_fd, a, c),
            grants_leases=_grants_lease(folder_fd, a),
            folder_fsync=_flushes(folder_fd),
            ctime_resolution_ns=_ctime_resolution(folder_fd, a, b),
            **_try_exchange(folder_fd, a, b),
        )


def unproven(folder_fd: int, because: str | None) -> Proof:
    """What is known without a try."""
    mount = mount_of_folder(folder_fd)
    return Proof(
        point="?" if mount is None else mount.path,
        kind="?" if mount is None else mount.kind,
        enforces_leases=enforces_leases(folder_fd),
        unknown_because=because,
    )


@contextlib.contextmanager
def _scratch(folder_fd: int) -> Iterator[tuple[str, str, str]]:
    """The names of an empty file and of one with a byte, and a free name; removes all three."""
    a, b, c = (temporary_name(f"{_SCRATCH}{new_token()}") for _ in range(3))
    try:
        os.close(create(folder_fd, a))
        with open(create(folder_fd, b), "wb") as file:
            file.write(b"-")
        yield a, b, c
    finally:
        for name in (a, b, c):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=folder_fd)


def _sweep(folder_fd: int) -> None:
    """Unlink what a killed lensd left of these files."""
    for name in os.listdir(folder_fd):
        if name.startswith(f".lensd-{_SCRATCH}"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=folder_fd)


def _keeps_inodes(folder_fd: int, name: str, other: str, between: Callable[[], None]) -> bool:
    """Whether a file has the same inode when it is opened again, and under another name."""
    before = _inode(folder_fd, name)
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder_fd)
    opened = os.fstat(fd).st_ino
    os.close(fd)
    os.rename(name, other, src_dir_fd=folder_fd, dst_dir_fd=folder_fd)
    renamed = _inode(folder_fd, other)
    os.rename(other, name, src_dir_fd=folder_fd, dst_dir_fd=folder_fd)
    between()
    return {before} == {opened, renamed, _inode(folder_fd, name)}


def _refuses_to_replace(folder_fd: int, a: str, b: str, free: str) -> bool:
    """Whether renameat2 with RENAME_NOREPLACE takes a free name, and no other."""
    before = identity_at(folder_fd, b)
    with contextlib.suppress(FileExistsError, NotSupported):
        rename_noreplace(folder_fd, a, folder_fd, b)
    if identity_at(folder_fd, b) != before or identity_at(folder_fd, a) is None:
        with contextlib.suppress(FileExistsError):
            os.close(create(folder_fd, a))  # for what is tried next
        return False
    try:
        rename_noreplace(folder_fd, a, folder_fd, free)
    except NotSupported:
        return False
    rename_noreplace(folder_fd, free, folder_fd, a)
    return True


def _links(folder_fd: int, name: str, other: str) -> bool:
    """Whether a second name shows the same inode."""
    try:
        os.link(name, other, src_dir_fd=folder_fd, dst_dir_fd=folder_fd, follow_symlinks=False)
    except OSError:
        return False
    same = _inode(folder_fd, other) == _inode(folder_fd, name)
    os.unlink(other, dir_fd=folder_fd)
    return same


def _grants_lease(folder_fd: int, name: str) -> bool:
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder_fd)
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def _flushes(folder_fd: int) -> bool:
    try:
        os.fsync(folder_fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
        return False
    return True


def _ctime_resolution(folder_fd: int, *names: str) -> int:
    """The coarsest unit of which all times are multiples."""
    stamps = [os.fstat(folder_fd).st_ctime_ns]
    stamps += [os.stat(name, dir_fd=folder_fd).st_ctime_ns for name in names]
    return next(unit for unit in _RESOLUTIONS_NS if all(s % unit == 0 for s in stamps))


def _try_exchange(folder_fd: int, a: str, b: str) -> dict[str, bool]:
    """Whether renameat2 exchanges names, inodes and sizes, and if the ctime of both is set."""
    before = identity_at(folder_fd, a), identity_at(folder_fd, b)
    time.sleep(_TICK_SECONDS)
    try:
        exchange(folder_fd, a, b)
    except NotSupported:
        return {"exchange": False}
    after = identity_at(folder_fd, b), identity_at(folder_fd, a)
    is_exchanged = all(x and y and x.same_content(y) for x, y in zip(before, after, strict=True))
    sets_ctime = is_exchanged and all(map(_is_later, before, after))
    return {"exchange": is_exchanged, "exchange_sets_ctime": sets_ctime}


def _is_later(before: Identity | None, after: Identity | None) -> bool:
    return before is not None and after is not None and before.ctime_ns != after.ctime_ns


def _inode(folder_fd: int, name: str) -> int:
    return os.stat(name, dir_fd=folder_fd, follow_symlinks=False).st_ino
