"""Reads whole files again, from the disk and not from the page cache, and hashes them.

What is to be unlinked is read under a lease (`hold_at`, `hold_original`) that is kept until then.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from lensd.errors import Failed, Reason, Skipped
from lensd.jobs.archived import open_original
from lensd.lora import marks
from lensd.store.archive import Archive
from lensd.store.disk_errors import Interrupted, disk_faults
from lensd.store.fs import identity_at, open_folder, open_regular
from lensd.store.hashing import sha256_of
from lensd.store.header import read_header
from lensd.store.identity import Identity
from lensd.store.lease import Lease, Refusal
from lensd.store.ledger.entry import Entry
from lensd.store.ledger.gone import Place
from lensd.store.paths import VERSIONS

Stop = Callable[[], bool]
_NAP_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Reading:
    """A file as it was read. `identity`: from before; `original`: the sha256 that a mark names."""

    identity: Identity
    sha256: str
    original: str | None = None


@dataclass(frozen=True, slots=True)
class Held:
    """An open file that was read whole, under a lease where the filesystem has one."""

    fd: int
    reading: Reading
    lease: Lease | None

    @property
    def unbroken(self) -> bool:
        """Whether no program wanted to write since before the reading; true without a lease."""
        return self.lease is None or not self.lease.broken

    def settle(self, quiet_seconds: float, stop: Stop) -> bool:
        """Whether the file is still as it was read.

        Without a lease, lensd waits for the quiet time and reads the bytes again: the times of the
        file may be those of a cache. Raises Interrupted, OSError.
        """
        if self.lease is None:
            wait_quiet(quiet_seconds, stop)
            if sha256_of(self.fd, drop_cache=True, stop=stop) != self.reading.sha256:
                return False
        return self.is_as_read

    @property
    def is_as_read(self) -> bool:
        """Whether no program wrote to it since it was read, or wants to, as far as that shows."""
        now = Identity.of(os.fstat(self.fd))
        return self.unbroken and now.same_content(self.reading.identity)


def wait_quiet(seconds: float, stop: Stop) -> None:
    """Wait. Raises Interrupted when `stop()` is true."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if stop():
            raise Interrupted
        time.sleep(min(left, _NAP_SECONDS))


@contextmanager
def hold_at(folder_fd: int, name: str, path: str, stop: Stop | None = None) -> Iterator[Held]:
    """Take a lease on a file of an open folder, then read it; the lease lasts for the block.

    Raises Skipped(`changed`) also if a program has it open for writing, and as `file_at`.
    """
    with _opened(open_regular(folder_fd, name)) as fd:
        yield from _hold(fd, path, stop, look_for_mark=True)


@contextmanager
def hold_original(archive: Archive, path: str, stop: Stop | None = None) -> Iterator[Held]:
    """As `hold_at`, for an archived original."""
    with _opened(open_original(archive, path)) as fd:
        yield from _hold(fd, path, stop, look_for_mark=False)


def published(entry: Entry, stop: Stop | None = None) -> Reading:
    """Read the file under an entry's name. Raises as `file_at`."""
    return file_at(entry.root, entry.path, stop)


def file_at(root: str, relative: str, stop: Stop | None = None) -> Reading:
    """Read a file in a watched folder; `stop()` is asked between two chunks.

    Raises FileNotFoundError, Skipped(`symlink` | `not_regular` | `changed`), Failed(`io_error`),
    PermissionError, Interrupted.
    """
    folder, name = os.path.split(relative)
    folder_fd = open_folder(root, folder)
    try:
        fd = open_regular(folder_fd, name)
    finally:
        os.close(folder_fd)
    with _opened(fd):
        return _read(fd, os.path.join(root, relative), stop, look_for_mark=True)


def is_unchanged(root: str, relative: str, identity: Identity) -> bool:
    """Whether a file in a watched folder is still the one that was read, ctime included."""
    folder, name = os.path.split(relative)
    try:
        folder_fd = open_folder(root, folder)
    except (OSError, Skipped):
        return False
    try:
        return identity_at(folder_fd, name) == identity
    finally:
        os.close(folder_fd)


def original(archive: Archive, path: str, stop: Stop | None = None) -> Reading:
    """Read a file in the archive. Raises as `file_at`."""
    with _opened(archive.originals.open(path)) as fd:
        return _read(fd, path, stop, look_for_mark=False)


def archive_paths(archive: Archive, entry: Entry | Place) -> list[str]:
    """Where the archive may have an entry's original: as the newest of its path, or an older one.

    Empty if the ledger has no archive path for it, or one outside of this archive.
    """
    path, prefix = entry.archive_path, f"{archive.root}/"
    if path is None or not path.startswith(prefix):
        return []
    inside = path.removeprefix(prefix)
    if inside.startswith(f"{VERSIONS}/"):
        return [path]
    return [path, f"{prefix}{VERSIONS}/{entry.sha256_in}/{inside}"]


@contextmanager
def _opened(fd: int) -> Iterator[int]:
    try:
        yield fd
    finally:
        os.close(fd)


def _hold(fd: int, path: str, stop: Stop | None, *, look_for_mark: bool) -> Iterator[Held]:
    lease = Lease.take(fd)
    if lease is Refusal.OPEN_WRITER:
        raise Skipped(
            Reason.CHANGED,
            f"a program has {path} open for writing: close it there, or wait until it is closed, "
            "then try again",
        )
    try:
        reading = _read(fd, path, stop, look_for_mark=look_for_mark)
        yield Held(fd, reading, lease if isinstance(lease, Lease) else None)
    finally:
        if isinstance(lease, Lease):
            lease.release()


def _read(fd: int, path: str, stop: Stop | None, *, look_for_mark: bool) -> Reading:
    with disk_faults(path):
        before = Identity.of(os.fstat(fd))
        sha256 = sha256_of(fd, drop_cache=True, stop=stop)
        mark = _mark(fd, before.size) if look_for_mark else None
        after = Identity.of(os.fstat(fd))
    if not after.same_content(before):
        raise Skipped(
            Reason.CHANGED, f"another program wrote to {path} while lensd read it; try again later"
        )
    return Reading(before, sha256, mark)


def _mark(fd: int, size: int) -> str | None:
    try:
        metadata = read_header(fd, size).metadata
    except (Skipped, Failed):
        return None
    return metadata[marks.ORIGINAL] if marks.is_output(metadata) else None
