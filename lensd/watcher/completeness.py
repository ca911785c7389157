"""Whether a quiet file is complete and one for lensd: one probe, and pure decisions.

A file that may still grow waits without limit; a file that looks complete, but may not be, waits
for a longer quiet time; a file that can never be a LoRA is refused with a reason.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass, replace
from enum import Enum

from lensd.errors import Failed, FileError, Reason, Skipped, Unfinished
from lensd.lora.marks import is_output
from lensd.store.disk_errors import unreadable
from lensd.store.hashing import read_up_to
from lensd.store.header import read_header
from lensd.store.identity import Identity
from lensd.store.lease import Lease, Refusal

# What download and sync programs append to a file's name for the incomplete file beside it.
PARTNERS = (".aria2", ".part", ".crdownload", ".!qB", ".partial", ".incomplete", ".!sync")
# How much of a file's end is read: at least two numbers, and trained numbers are seldom 0.
TAIL_BYTES = 16


@dataclass(frozen=True, slots=True)
class Facts:
    """What the probe found at a path."""

    identity: Identity
    kind_refusal: FileError | None = None  # it is a link, a pipe, or a file with other names
    partner: str | None = None
    lease: Refusal | None = None
    refusal: FileError | None = None  # what the header's reader raised
    is_output: bool = False
    holes: bool = False  # the disk stores no bytes for parts of it
    zero_tail: bool = False


class Kind(Enum):
    TAKE = "take"  # it becomes a job
    OWN = "own"  # lensd wrote it
    WAIT = "wait"  # look again; `lensd status` shows the `reason`
    REFUSE = "refuse"  # with a `refusal`, until it changes


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do with a quiet file.

    A file that waits may have a `refusal` too, which the log has once.
    """

    kind: Kind
    reason: str = ""
    refusal: FileError | None = None
    busy: bool = False  # a program is at work on it: its quiet time has not begun
    unproven: bool = False  # it waits only for time to pass


def decide(facts: Facts, quiet: float, quiet_seconds: float, unproven_seconds: float) -> Verdict:
    """The rules, in order. `quiet`: seconds since a change, or since a program was at work."""
    if facts.kind_refusal is not None:
        return Verdict(Kind.REFUSE, refusal=facts.kind_refusal)
    if facts.partner is not None:
        why = f"unfinished download: {facts.partner} lies beside it"
        return Verdict(Kind.WAIT, why, busy=True)
    if facts.lease is Refusal.OPEN_WRITER:
        return Verdict(Kind.WAIT, "a program has it open for writing", busy=True)
    if isinstance(facts.refusal, Unfinished):
        report = facts.refusal if quiet >= unproven_seconds else None
        return Verdict(Kind.WAIT, f"not whole: {facts.refusal}", report)
    if facts.refusal is not None:
        return Verdict(Kind.REFUSE, refusal=facts.refusal)
    if facts.is_output:
        return Verdict(Kind.OWN)
    doubt = _doubt(facts)
    needed = quiet_seconds if doubt is None else unproven_seconds
    if quiet < needed:
        why = doubt or "a program was at work on it until just now"
        why += f"; it becomes a job after {needed:g} s without a change"
        return Verdict(Kind.WAIT, why, unproven=True)
    return Verdict(Kind.TAKE)


def _doubt(facts: Facts) -> str | None:
    """Why a file that looks complete may be a preallocated download."""
    if facts.lease is Refusal.UNAVAILABLE:
        return "lensd cannot find out whether a program writes to it"
    if facts.holes:
        return "the file has holes; it may be an unfinished download"
    if facts.zero_tail:
        return "the file ends in zero bytes; it may be a preallocated download"
    return None


def probe(folder_fd: int, name: str, own_inode: int | None = None) -> Facts:
    """Look at a file. `own_inode` is that of lensd's archived original, which may be a link to it.

    Raises FileNotFoundError when nothing has the name, or a link has taken it.
    """
    found = os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
    facts = Facts(Identity.of(found), kind_refusal=_wrong_kind(found, own_inode))
    if facts.kind_refusal is not None:
        return facts
    partner = _partner(folder_fd, name)
    if partner is not None:  # a lease would only delay the program that downloads
        return replace(facts, partner=partner)
    try:
        fd = os.open(name, _READ, dir_fd=folder_fd)
    except PermissionError:
        return replace(facts, refusal=unreadable())
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP):
            raise FileNotFoundError(errno.ENOENT, "it is gone", name) from error
        why = f"lensd cannot open the file: {error.strerror}; check the disk"
        return replace(facts, refusal=Failed(Reason.IO_ERROR, why))
    try:
        return _look_inside(fd, facts)
    finally:
        os.close(fd)


def _look_inside(fd: int, facts: Facts) -> Facts:
    identity = Identity.of(os.fstat(fd))
    if identity != facts.identity:  # another file took the name, as the caller sees
        return replace(facts, identity=identity)
    lease = Lease.take(fd)
    if lease is Refusal.OPEN_WRITER:
        return replace(facts, lease=lease)
    if isinstance(lease, Lease):
        lease.release()
    else:
        facts = replace(facts, lease=lease)
    try:
        header = read_header(fd, identity.size)
        zero_tail = _ends_in_zeros(fd, identity.size)
    except FileError as refusal:
        return replace(facts, refusal=refusal)
    holes = _has_holes(fd, identity.size)
    return replace(facts, is_output=is_output(header.metadata), holes=holes, zero_tail=zero_tail)


def _has_holes(fd: int, size: int) -> bool:
    """Whether bytes were never written, or the filesystem does not store blocks of zeros.

    Written bytes that are not on the disk yet count as data. Some filesystems report no holes, or
    an error.
    """
    try:
        return os.lseek(fd, 0, os.SEEK_HOLE) < size
    except OSError:
        return False


def _ends_in_zeros(fd: int, size: int) -> bool:
    tail = read_up_to(fd, TAIL_BYTES, max(0, size - TAIL_BYTES))
    return not any(tail)


def _wrong_kind(found: os.stat_result, own_inode: int | None) -> FileError | None:
    if stat.S_ISLNK(found.st_mode):
        return Skipped(
            Reason.SYMLINK,
            "this is a symbolic link, and lensd leaves links alone. Put the file itself here, or "
            "watch the folder of its target",
        )
    if not stat.S_ISREG(found.st_mode):
        return Skipped(Reason.NOT_REGULAR, "this is not a regular file; lensd leaves it alone")
    if found.st_nlink > (2 if own_inode == found.st_ino else 1):
        return Skipped(
            Reason.HARDLINKED,
            f"the file has {found.st_nlink} names (hard links), and only one would get the smaller "
            "file. Remove the other names, or replace this one by a copy",
        )
    return None


def _partner(folder_fd: int, name: str) -> str | None:
    for suffix in PARTNERS:
        try:
            os.stat(name + suffix, dir_fd=folder_fd, follow_symlinks=False)
        except OSError:
            continue
        return name + suffix
    return None


_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
