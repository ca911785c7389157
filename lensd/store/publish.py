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
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Literal

from lensd.errors import Reason, Skipped
from lensd.store import staging
from lensd.store.copy import Stop, fill, link_open_file
from lensd.store.disk_errors import disk_faults
from lensd.store.fs import fsync_folder, identity_at, open_regular
from lensd.store.hashing import sha256_of
from lensd.store.identity import Identity
from lensd.store.probe import Way
from lensd.store.rename import NotSupported, move_onto_free_name
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


def discard(folder_fd: int, temporary: str, identity: Identity) -> bool:
    """Unlink a temporary, durably, if it is still the given file; False: it is another file.

    Does not compare the ctime, since an exchange changes it.
    """
    found = identity_at(folder_fd, temporary)
    if found is None:
        return True
    if not found.same_content(identity):
        return False
    with disk_faults(folder_fd):
        os.unlink(temporary, dir_fd=folder_fd)
        fsync_folder(folder_fd)
    return True


def has_bytes(
    folder_fd: int, name: str, sha256s: Collection[str], stop: Stop | None = None
) -> bool:
    """Whether a file has one of these hashes: where no lease shows a writer, times may not, either.

    True if nothing has the name. Raises Interrupted, Failed(`io_error`).
    """
    try:
        fd = open_regular(folder_fd, name)
    except FileNotFoundError:
        return True
    try:
        return sha256_of(fd, drop_cache=True, stop=stop) in sha256s
    finally:
        os.close(fd)


@contextmanager
def staged_original(
    fd: int,
    sha256: str,
    folder_fd: int,
    temporary: str,
    stop: Stop | None = None,
    *,
    may_link: bool = True,
) -> Iterator[tuple[Returned, Identity]]:
    """Give an open original a temporary name in a folder: a link ("move"), or a verified copy.

    The caller has verified its hash. At the end of the block the temporary goes, unless another
    file has its name by then. Raises Failed(`no_space` | `io_error`), Skipped, Interrupted.
    """
    with disk_faults(folder_fd):
        is_link = may_link and link_open_file(fd, folder_fd, temporary)
    if is_link:
        try:
            yield "move", Identity.of(os.fstat(fd))
        finally:
            staging.remove(folder_fd, temporary, staging.inode_of(fd))
        return
    with staging.Temporary(folder_fd, temporary) as staged:
        method = fill(staged, fd, Identity.of(os.fstat(fd)), sha256, stop)
        yield method, Identity.of(os.fstat(staged.fd))


def place(
    folder_fd: int,
    name: str,
    temporary: str,
    incoming: Identity,
    *,
    replaces: Identity | None,
    unbroken: Callable[[], bool],
) -> None:
    """Give a staged original a free name, or that of the file `replaces`, as `publish` does.

    Raises what `publish` raises.
    """
    if replaces is not None and identity_at(folder_fd, name) is not None:
        publish(folder_fd, name, temporary, expected=replaces, staged=incoming, unbroken=unbroken)
        return
    try:
        move_onto_free_name(folder_fd, temporary, folder_fd, name)
    except FileExistsError:
        raise _changed(name) from None
    fsync_folder(folder_fd)


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


def _changed(what: str) -> Skipped:
    return Skipped(
        Reason.CHANGED,
        f"another program wrote to {what}; its bytes stay, and lensd takes the file again",
    )


def _vanished() -> Skipped:
    return Skipped(
        Reason.VANISHED, "the file was deleted or renamed meanwhile; nothing was replaced"
    )
