"""Verified copies of files: shared blocks if the filesystem can, else bytes."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Callable
from typing import Literal

from lensd.errors import Failed, Reason, Skipped
from lensd.store.attributes import copy_attributes
from lensd.store.disk_errors import path_of
from lensd.store.fs import copy_name, fsync_folder, identity_at, open_regular
from lensd.store.hashing import chunks, sha256_of
from lensd.store.identity import Identity
from lensd.store.lease import Lease, Refusal
from lensd.store.rename import move_onto_free_name
from lensd.store.staging import Temporary

_FICLONE = 0x40049409
_CANNOT_CLONE = (
    errno.ENOTSUP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS, errno.EPERM,
    errno.EACCES, errno.ETXTBSY, errno.EBADF,
)  # fmt: skip
# Errors of link() by which the filesystem refuses every hard link of the file.
CANNOT_LINK = (errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS)

Stop = Callable[[], bool]


def fill(
    staged: Temporary, source_fd: int, identity: Identity, sha256: str, stop: Stop | None = None
) -> Literal["reflink", "copy"]:
    """Fill the empty `staged` file with the source's bytes, durably, and verify it on the disk.

    Copies attributes as far as lensd may: the copy matters more than its owner.
    Raises Skipped(`changed`), Failed(`io_error` | `no_space`), Interrupted.
    """
    method: Literal["reflink", "copy"] = "reflink" if _clone(source_fd, staged.fd) else "copy"
    if method == "copy":
        for chunk in chunks(source_fd, stop):
            staged.write(chunk)
    with contextlib.suppress(Skipped):
        copy_attributes(source_fd, staged.fd, preserve_mtime=True)
    read, _ = staged.sync()
    wrong = path_of(source_fd) if method == "copy" and read != sha256 else None
    if wrong is None and sha256_of(staged.fd, drop_cache=True, stop=stop) != sha256:
        wrong = path_of(staged.fd)
    if wrong is None:
        return method
    require_unchanged(source_fd, identity)
    raise Failed(
        Reason.IO_ERROR,
        f"{wrong} reads differently from what it should: check that disk and the memory "
        "(`dmesg`, `smartctl`); nothing was replaced",
    )


def require_unchanged(fd: int, identity: Identity) -> None:
    """Raises Skipped(`changed`) unless size and mtime are those of `identity`."""
    if not Identity.of(os.fstat(fd)).same_content(identity):
        raise _changed()


def link_open_file(fd: int, folder_fd: int, name: str) -> bool:
    """Give the open inode one more name, which must be free. False: this filesystem cannot.

    Raises FileExistsError, Skipped(`vanished`) for an inode that has no name any more, OSError.
    """
    try:
        # With dst_dir_fd Python calls linkat; its AT_SYMLINK_FOLLOW resolves /proc to the inode.
        os.link(f"/proc/self/fd/{fd}", name, dst_dir_fd=folder_fd, follow_symlinks=True)
    except OSError as error:
        if error.errno == errno.ENOENT and os.fstat(fd).st_nlink == 0:
            raise Skipped(
                Reason.VANISHED, "the file was deleted meanwhile; there is nothing to do"
            ) from error
        if error.errno not in (*CANNOT_LINK, errno.ENOENT):
            raise
        return False
    return True


def copy_onto_free_name(
    source_fd: int,
    identity: Identity,
    sha256: str,
    folder_fd: int,
    name: str,
    stop: Stop | None = None,
) -> Literal["reflink", "copy"]:
    """`fill` a temporary and give it the free `name`, durably. Raises what `fill` raises."""
    with Temporary(folder_fd, copy_name()) as staged:
        method = fill(staged, source_fd, identity, sha256, stop)
        staged.rename(name)
    return method


def move(from_fd: int, name: str, to_fd: int, target: str) -> None:
    """Move a file onto a free name, durably; across filesystems by a verified copy.

    Raises Skipped(`changed`) if another program writes to a file that is copied.
    """
    try:
        move_onto_free_name(from_fd, name, to_fd, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _move_across(from_fd, name, to_fd, target)
    fsync_folder(to_fd)
    fsync_folder(from_fd)


def _move_across(from_fd: int, name: str, to_fd: int, target: str) -> None:
    fd = open_regular(from_fd, name)
    try:
        identity = Identity.of(os.fstat(fd))
        lease = Lease.take(fd)
        if lease is Refusal.OPEN_WRITER:
            raise _changed()
        with lease if isinstance(lease, Lease) else contextlib.nullcontext():
            copy_onto_free_name(fd, identity, sha256_of(fd), to_fd, target)
            broken = isinstance(lease, Lease) and lease.broken
            if broken or identity_at(from_fd, name) != identity:
                raise _changed()
            os.unlink(name, dir_fd=from_fd)
    finally:
        os.close(fd)


def _clone(source_fd: int, target_fd: int) -> bool:
    try:
        fcntl.ioctl(target_fd, _FICLONE, source_fd)
    except OSError as error:
        if error.errno not in _CANNOT_CLONE:
            raise
        return False
    return True


def _changed() -> Skipped:
    return Skipped(
        Reason.CHANGED,
        "another program wrote to the file while lensd copied it; lensd takes it again later",
    )
