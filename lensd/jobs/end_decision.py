"""What becomes of a job that meets a FileError: a pure function from facts to a verdict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from lensd.errors import Reason

# Faults of a disk that time or a person mends. The job waits, and so do all others.
DISK_FAULTS = (Reason.NO_SPACE, Reason.READ_ONLY)
# Seconds until a job that met an I/O error is tried again; after the last it has failed.
BACK_OFF = (10.0, 60.0, 300.0, 1800.0)

# Times that a file may end the worker before it is set aside. All others wait for a file
# that takes too long, and mostly it takes too long again.
ATTEMPTS = 3
ATTEMPTS_IN_TIME = 2


@dataclass(frozen=True, slots=True)
class Facts:
    """A job and the reason of its error.

    `has_moved` is asked only if the path does not have the job's file any more: it searches all
    folders. `is_disk_error`: the error names a disk. `waits_for_disks`: as the daemon does, not
    `lensd once`.
    """

    reason: Reason
    is_folder_away: bool = False
    has_ended: bool = False
    is_published: bool = False
    has_moved: Callable[[], bool] = lambda: False
    is_redo: bool = False
    is_disk_error: bool = False
    retries: int = 0
    waits_for_disks: bool = False


class Verdict(Enum):
    """What to do with the job."""

    LEAVE = "leave the row as it is: recovery, or an earlier end, decides"
    COMPLETE_LATER = "wait: the output is in place, and recovery completes the job"
    FOLLOW = "begin again under the file's new name"
    SUPERSEDE = "end the job: the newer version of the file is a job of its own"
    WAIT_FOR_DISK = "queue the job again, and wait for the disk with all others"
    POSTPONE = "queue the job again, for a later time"
    FORGET = "record the end, so that the same file is a new job if it comes back"
    RECORD = "record the end"


def attempts_allowed(reason: Reason) -> int:
    """How often a file may end the worker, by the reason of the last time."""
    return ATTEMPTS_IN_TIME if reason is Reason.WORKER_TIMEOUT else ATTEMPTS


def decide(facts: Facts) -> Verdict:
    """The first rule that fits."""
    if facts.is_folder_away or facts.has_ended:  # not the file's fault; or it has its outcome
        return Verdict.LEAVE
    if facts.is_published:
        return Verdict.COMPLETE_LATER
    if facts.reason in (Reason.VANISHED, Reason.CHANGED) and facts.has_moved():
        return Verdict.FOLLOW
    if facts.reason == Reason.CHANGED and not facts.is_redo:  # the intake ignores an output
        return Verdict.SUPERSEDE
    if facts.waits_for_disks and facts.reason in DISK_FAULTS:
        return Verdict.WAIT_FOR_DISK
    if facts.waits_for_disks and facts.is_disk_error and facts.retries < len(BACK_OFF):
        return Verdict.POSTPONE
    return Verdict.FORGET if facts.reason == Reason.VANISHED else Verdict.RECORD
