"""Whether a quiet file is whole and one for lensd: one probe, small pure decisions.

A file that may still be growing waits; one that never will be a LoRA is refused with a reason.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass, replace
from enum import Enum

from lensd.errors import Failed, FileError, Skipped
from lensd.lora.marks import is_output
from lensd.store.faults import unreadable
from lensd.store.header import read_header
from lensd.store.identity import Identity
from lensd.store.lease import Lease, Refusal

# Names that download and sync programs give to the unfinished file beside the whole one's name.
PARTNERS = (".aria2", ".part", ".crdownload", ".!qB", ".partial", ".incomplete", ".!sync")
# What may still become right while the same program goes on writing.
UNFINISHED = frozenset({"empty", "truncated"})


@dataclass(frozen=True, slots=True)
class Facts:
    """What the probe found of a path."""

    identity: Identity
    kind_refusal: FileError | None = None  # a link, a pipe, a file with other names
    partner: str | None = None
    lease: Refusal | None = None
    refusal: FileError | None = None  # what reading the header gave
    is_output: bool = False


class Kind(Enum):
    TAKE = "take"  # it becomes a job
    OWN = "own"  # lensd wrote it
    WAIT = "wait"  # look again; `reason` tells `status` why
    REFUSE = "refuse"  # `refusal` is its end, until it changes


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a quiet file."""

    kind: Kind
    reason: str = ""
    refusal: FileError | None = None


def decide(facts: Facts, quiet: float, unproven_seconds: float) -> Verdict:
    """The rules, in order. `quiet` is how many seconds nothing about the file has changed."""
    long_quiet = quiet >= unproven_seconds
    if facts.kind_refusal is not None:
        return Verdict(Kind.REFUSE, refusal=facts.kind_refusal)
    if facts.partner is not None:
        return Verdict(Kind.WAIT, f"unfinished download: {facts.partner} lies beside it")
    if facts.lease is Refusal.OPEN_WRITER:
        return Verdict(Kind.WAIT, "a program has it open for writing")
    if facts.refusal is not None:
        if facts.refusal.reason in UNFINISHED and not long_quiet:
            return Verdict(Kind.WAIT, f"not whole: {facts.refusal.reason}")
        return Verdict(Kind.REFUSE, refusal=facts.refusal)
    if facts.is_output:
        return Verdict(Kind.OWN)
    if facts.lease is Refusal.UNAVAILABLE and not long_quiet:
        return Verdict(Kind.WAIT, "nothing proves that no program is writing to it")
    return Verdict(Kind.TAKE)


def probe(folder_fd: int, name: str, own_inode: int | None = None) -> Facts:
    """Look at a file. `own_inode` is that of lensd's own archive link to it, if there is one.

    Raises FileNotFoundError when nothing has the name.
    """
    found = os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
    facts = Facts(Identity.of(found), kind_refusal=_wrong_kind(found, own_inode))
    if facts.kind_refusal is not None:
        return facts
    facts = replace(facts, partner=_partner(folder_fd, name))
    try:
        fd = os.open(name, _READ, dir_fd=folder_fd)
    except PermissionError:
        return replace(facts, refusal=unreadable())
    except OSError as error:
        if error.errno == errno.ENOENT:
            raise
        return replace(facts, refusal=Failed("io_error", f"it cannot be opened: {error.strerror}"))
    try:
        return _look_inside(fd, facts)
    finally:
        os.close(fd)


def _look_inside(fd: int, facts: Facts) -> Facts:
    lease = Lease.take(fd)
    if isinstance(lease, Refusal):
        facts = replace(facts, lease=lease)
    else:
        lease.release()
    try:
        header = read_header(fd, os.fstat(fd).st_size)
    except FileError as refusal:
        return replace(facts, refusal=refusal)
    return replace(facts, is_output=is_output(header.metadata))


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
