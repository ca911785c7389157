"""Whether a quiet file is whole and one for lensd: one probe, small pure decisions.

A file that may still be growing waits for as long as that lasts; one of which that is only not
disproved waits for a longer quiet time; one that never will be a LoRA is refused with a reason.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass, replace
from enum import Enum

from lensd.errors import Failed, FileError, Skipped, Unfinished
from lensd.lora.marks import is_output
from lensd.store.disk_errors import unreadable
from lensd.store.hashing import read_up_to
from lensd.store.header import read_header
from lensd.store.identity import Identity
from lensd.store.lease import Lease, Refusal

# Names that download and sync programs give to the unfinished file beside the whole one's name.
PARTNERS = (".aria2", ".part", ".crdownload", ".!qB", ".partial", ".incomplete", ".!sync")
# How much of a file's end is read. Trained numbers are seldom 0, and here are two at least.
TAIL_BYTES = 16


@dataclass(frozen=True, slots=True)
class Facts:
    """What the probe found of a path."""

    identity: Identity
    kind_refusal: FileError | None = None  # a link, a pipe, a file with other names
    partner: str | None = None
    lease: Refusal | None = None
    refusal: FileError | None = None  # what reading the header gave
    is_output: bool = False
    holes: bool = False  # parts of it have no place on the disk
    zero_tail: bool = False


class Kind(Enum):
    TAKE = "take"  # it becomes a job
    OWN = "own"  # lensd wrote it
    WAIT = "wait"  # look again; `reason` tells `status` why
    REFUSE = "refuse"  # `refusal` is its end, until it changes


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a quiet file.

    A file that waits may have a `refusal` too: what the log should say, once.
    """

    kind: Kind
    reason: str = ""
    refusal: FileError | None = None
    busy: bool = False  # somebody is at work on it: its quiet time has not begun
    unproven: bool = False  # nothing speaks against it but that too little time has passed


def decide(facts: Facts, quiet: float, quiet_seconds: float, unproven_seconds: float) -> Verdict:
    """The rules, in order. `quiet`: seconds since anything about the file changed, or was busy."""
    if facts.kind_refusal is not None:
        return Verdict(Kind.REFUSE, refusal=facts.kind_refusal)
    if facts.partner is not None:
        why = f"unfinished download: {facts.partner} lies beside it"
        return Verdict(Kind.WAIT, why, busy=True)
    if facts.lease is Refusal.OPEN_WRITER:
        return Verdict(Kind.WAIT, "a program has it open for writing", busy=True)
    if isinstance(facts.refusal, Unfinished):
        told = facts.refusal if quiet >= unproven_seconds else None
        return Verdict(Kind.WAIT, f"not whole: {facts.refusal}", told)
    if facts.refusal is not None:
        return Verdict(Kind.REFUSE, refusal=facts.refusal)
    if facts.is_output:
        return Verdict(Kind.OWN)
    doubt = _doubt(facts)
    needed = quiet_seconds if doubt is None else unproven_seconds
    if quiet < needed:
        why = doubt or "a program was at work on it until just now"
        why += f": lensd takes it when nothing has changed for {needed:g} s"
        return Verdict(Kind.WAIT, why, unproven=True)
    return Verdict(Kind.TAKE)


def _doubt(facts: Facts) -> str | None:
    """Why a file that looks whole may not be: preallocated downloads look so, and real files do."""
    if facts.lease is Refusal.UNAVAILABLE:
        return "nothing proves that no program is writing to it"
    if facts.holes:
        return "it has holes, as a download that goes on may have"
    if facts.zero_tail:
        return "it ends in zeros, as a download that goes on may do"
    return None


def probe(folder_fd: int, name: str, own_inode: int | None = None) -> Facts:
    """Look at a file. `own_inode` is that of lensd's own archive link to it, if there is one.

    Raises FileNotFoundError when nothing has the name, or by now a link has it.
    """
    found = os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
    facts = Facts(Identity.of(found), kind_refusal=_wrong_kind(found, own_inode))
    if facts.kind_refusal is not None:
        return facts
    partner = _partner(folder_fd, name)
    if partner is not None:  # a lease would only be in the way of the program that downloads
        return replace(facts, partner=partner)
    try:
        fd = os.open(name, _READ, dir_fd=folder_fd)
    except PermissionError:
        return replace(facts, refusal=unreadable())
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP):
            raise FileNotFoundError(errno.ENOENT, "it is gone", name) from error
        return replace(facts, refusal=Failed("io_error", f"it cannot be opened: {error.strerror}"))
    try:
        return _look_inside(fd, facts)
    finally:
        os.close(fd)


def _look_inside(fd: int, facts: Facts) -> Facts:
    identity = Identity.of(os.fstat(fd))
    if identity != facts.identity:  # another file took the name: `identity` tells the caller
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
    """Bytes that were never written, or blocks of zeros that the filesystem does not store.

    The kernel counts what is written but not on the disk yet as data. Where it cannot tell, it says
    that there are none, or refuses the question.
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
            "symlink",
            "this is a symbolic link; lensd leaves links alone. Put the file itself here, or "
            "watch the folder that it lies in",
        )
    if not stat.S_ISREG(found.st_mode):
        return Skipped("not_regular", "this is not a regular file; it is left alone")
    if found.st_nlink > (2 if own_inode == found.st_ino else 1):
        return Skipped(
            "hardlinked",
            f"the file has {found.st_nlink} names (hard links); replacing one of them would part "
            "them. Remove the other names, or replace this one by a copy",
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
