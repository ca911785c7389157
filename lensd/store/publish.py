"""Replaces a file: its name has the complete old or the complete new bytes at any time.

After the exchange of the two names, the file that came out shows whether another program wrote to
it: its inode, size and mtime must be the old ones, and its ctime no later than the exchange. Most
filesystems set the ctime in an exchange (ext4, btrfs, tmpfs, overlayfs; not XFS). The two inodes
may get different times: since Linux 6.13 an inode whose times were read in the same clock tick gets
a finer time. A write between the last check and the exchange changes size or mtime; if the program
also sets the old mtime again, only the lease shows it. No other order of times is required: a clock
may be set back, and the clock of the filesystem may be another than that of this process.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Literal

from lensd.errors import Failed, Skipped
from lensd.store.copy import Stop, fill, link_open_file
from lensd.store.disk_errors import disk_faults
from lensd.store.fs import fsync_folder, identity_at, make_folders, open_regular, temporary_name
from lensd.store.hashing import sha256_of
from lensd.store.identity import Identity
from lensd.store.probe import Way
from lensd.store.rename import NotSupported, move_onto_free_name
from lensd.store.staging import Temporary
from lensd.store.swap import swap

Returned = Literal["move", "reflink", "copy"]
_SWAP_BACKS = 8
_CLOCKS_AGREE_NS = 1_000_000_000
# The exchange stamps its two files one after the other. A tick of the kernel's coarse clock, at
# most 10 ms, may lie between.
_STAMPS_APART_NS = 10_000_000
# A link sets the ctime of the old file, and a FUSE filesystem may show an older one for a while.
_ANY_TIME = 2**63


def publish(
    folder_fd: int,
    name: str,
    temporary: str,
    *,
    expected: Identity,
    staged: Identity,
    unbroken: Callable[[], bool],
    way: Way | None = None,
) -> Way:
    """Give the staged file the `name`, whose old file is `expected`, its present ctime included.

    `way`: what the filesystem is proven to do. After "exchange" and "link" the old file has the
    name `temporary`: discard it after the ledger has the outcome. After "rename" (less safe: the
    filesystem has neither, or renames instead) only the archive has it.
    Raises Skipped(`changed` | `vanished`), Failed(`io_error`); all bytes are then where they were.
    """
    if not _has_content(folder_fd, temporary, staged):
        raise _changed(f"the staged file {temporary}")

    def untouched() -> bool:
        return identity_at(folder_fd, name) == expected and unbroken()

    def came_out_untouched(exchanged_at: int) -> bool:
        if not unbroken():
            return False
        out = identity_at(folder_fd, temporary)
        if out is None or not out.same_content(expected):
            return False
        named = identity_at(folder_fd, name)
        if named is not None and named.same_inode(expected):  # both names have the old file
            return False
        return (out == expected or out.ctime_ns <= exchanged_at) and unbroken()

    return _replace(folder_fd, name, temporary, staged, untouched, came_out_untouched, way)


def discard(
    folder_fd: int, temporary: str, identity: Identity, *, exact_ctime: bool = False
) -> bool:
    """Unlink a temporary, durably, if it is still the given file; False: it is another file.

    Compares the ctime only with `exact_ctime`, since an exchange changes it.
    """
    found = identity_at(folder_fd, temporary)
    if found is None:
        return True
    if not found.same_content(identity) or (exact_ctime and found != identity):
        return False
    with disk_faults(folder_fd):
        os.unlink(temporary, dir_fd=folder_fd)
        fsync_folder(folder_fd)
    return True


def has_bytes(folder_fd: int, name: str, sha256: str, stop: Stop | None = None) -> bool:
    """Whether a file has this hash now: where no lease shows a writer, its times may not, either.

    True if nothing has the name. Raises Interrupted, Failed(`io_error`).
    """
    try:
        fd = open_regular(folder_fd, name)
    except FileNotFoundError:
        return True
    try:
        return sha256_of(fd, drop_cache=True, stop=stop) == sha256
    finally:
        os.close(fd)


def return_original(
    original: str,
    sha256: str,
    root: str,
    relative: str,
    *,
    published: Identity | None,
    token: str,
    stop: Stop | None = None,
) -> Returned:
    """Put an archived original back at `root/relative`, bit-exact, with all its attributes.

    Replaces only the file `published`, or takes a free name. "move" (on one filesystem) takes the
    original out of the archive and needs no space; "reflink" and "copy" leave it there.
    Raises Skipped(`changed`), Failed(`io_error` | `no_space`), FileNotFoundError, Interrupted.
    """
    folder, name = os.path.split(relative)
    archive_fd = os.open(os.path.dirname(original), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    folder_fd = -1
    fd = -1
    try:
        fd = open_regular(archive_fd, os.path.basename(original))
        _require_hash(fd, sha256, original, stop)
        folder_fd = make_folders(root, folder)
        temporary = temporary_name(token)
        with disk_faults(root):
            if link_open_file(fd, folder_fd, temporary):
                _place_link(fd, folder_fd, name, temporary, published)
                discard(archive_fd, os.path.basename(original), Identity.of(os.fstat(fd)))
                return "move"
            return _place_copy(fd, sha256, folder_fd, name, temporary, published, stop)
    finally:
        for opened in (fd, folder_fd, archive_fd):
            if opened >= 0:
                os.close(opened)


def _place_link(
    fd: int, folder_fd: int, name: str, temporary: str, published: Identity | None
) -> None:
    incoming = Identity.of(os.fstat(fd))
    try:
        _take_name(folder_fd, name, temporary, incoming, published)
    except BaseException:
        discard(folder_fd, temporary, incoming)
        raise


def _place_copy(
    fd: int,
    sha256: str,
    folder_fd: int,
    name: str,
    temporary: str,
    published: Identity | None,
    stop: Stop | None,
) -> Returned:
    with Temporary(folder_fd, temporary) as staged:
        method = fill(staged, fd, Identity.of(os.fstat(fd)), sha256, stop)
        _take_name(folder_fd, name, temporary, Identity.of(os.fstat(staged.fd)), published)
    return method


def _take_name(
    folder_fd: int, name: str, temporary: str, incoming: Identity, published: Identity | None
) -> None:
    """Take a free name, or replace `published` and unlink it; else raise Skipped(`changed`)."""
    if identity_at(folder_fd, name) is None:
        try:
            move_onto_free_name(folder_fd, temporary, folder_fd, name)
        except FileExistsError:
            raise _changed(name) from None
        fsync_folder(folder_fd)
        return
    if published is None or not _has_content(folder_fd, name, published):
        raise _changed(name)
    _replace(
        folder_fd, name, temporary, incoming,
        lambda: identity_at(folder_fd, name) == published,
        lambda _: _has_content(folder_fd, temporary, published),
    )  # fmt: skip
    discard(folder_fd, temporary, published)


def _replace(
    folder_fd: int,
    name: str,
    temporary: str,
    incoming: Identity,
    untouched: Callable[[], bool],
    came_out_untouched: Callable[[int], bool],
    way: Way | None = None,
) -> Way:
    with disk_faults(folder_fd):
        _require_untouched(untouched, folder_fd, name)
        try:
            taken = swap(folder_fd, temporary, name, way)
        except NotSupported:
            return _rename_over(folder_fd, name, temporary, untouched)
        except FileNotFoundError:
            raise _vanished() from None
        if identity_at(folder_fd, temporary) is None:
            _require_renamed(folder_fd, name, incoming)
            return "rename"
        exchanged_at = _time_of_exchange(folder_fd, name) if taken == "exchange" else _ANY_TIME
        try:
            fsync_folder(folder_fd)
            is_untouched = came_out_untouched(exchanged_at)
        except BaseException:
            _swap_back(folder_fd, name, temporary, incoming, taken)
            raise
        if not is_untouched:
            _swap_back(folder_fd, name, temporary, incoming, taken)
            raise _changed(name)
    return taken


def _time_of_exchange(folder_fd: int, name: str) -> int:
    """The time right after an exchange, in ns, by the clock of the filesystem.

    The exchange sets the ctime of the folder and of both files, that of the original last. The
    clock of this process is finer; the result is from it where the two clocks agree.
    """
    named = identity_at(folder_fd, name)
    stamps = [os.fstat(folder_fd).st_ctime_ns] + ([named.ctime_ns] if named else [])
    now = time.time_ns()
    agree = 0 <= now - max(stamps) < _CLOCKS_AGREE_NS
    return now if agree else max(stamps) + _STAMPS_APART_NS


def _rename_over(folder_fd: int, name: str, temporary: str, untouched: Callable[[], bool]) -> Way:
    _require_untouched(untouched, folder_fd, name)
    os.replace(temporary, name, src_dir_fd=folder_fd, dst_dir_fd=folder_fd)
    fsync_folder(folder_fd)
    return "rename"


def _require_renamed(folder_fd: int, name: str, incoming: Identity) -> None:
    """After an exchange that was a plain rename: the name has the incoming file, durably."""
    named = identity_at(folder_fd, name)
    if named is None:
        raise _vanished()
    if not named.same_inode(incoming):
        raise _changed(name)
    fsync_folder(folder_fd)


def _require_untouched(untouched: Callable[[], bool], folder_fd: int, name: str) -> None:
    if not untouched():
        raise _vanished() if identity_at(folder_fd, name) is None else _changed(name)


def _swap_back(folder_fd: int, name: str, temporary: str, incoming: Identity, way: Way) -> None:
    """Undo an exchange, unless a newer file of another program has the name: that file stays."""
    for _ in range(_SWAP_BACKS):
        now = identity_at(folder_fd, name)
        if now is None:
            try:
                move_onto_free_name(folder_fd, temporary, folder_fd, name)
            except FileExistsError:
                continue
            break
        if not now.same_inode(incoming):
            break
        try:
            swap(folder_fd, temporary, name, way)
        except FileNotFoundError:
            continue
        out = identity_at(folder_fd, temporary)
        if out is None or out.same_inode(incoming):
            break
        # Another program replaced the file between the two lines above.
        swap(folder_fd, temporary, name, way)
    fsync_folder(folder_fd)


def _has_content(folder_fd: int, name: str, identity: Identity) -> bool:
    found = identity_at(folder_fd, name)
    return found is not None and found.same_content(identity)


def _require_hash(fd: int, sha256: str, path: str, stop: Stop | None) -> None:
    if sha256_of(fd, drop_cache=True, stop=stop) != sha256:
        raise Failed(
            "io_error",
            f"the archived original {path} is damaged (its sha256 is not {sha256}): nothing was "
            "replaced; restore that file from a backup and check the disk",
        )


def _changed(what: str) -> Skipped:
    return Skipped(
        "changed",
        f"another program wrote to {what}; its bytes stay, and lensd takes the file again",
    )


def _vanished() -> Skipped:
    return Skipped("vanished", "the file was deleted or renamed meanwhile; nothing was replaced")
