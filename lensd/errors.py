"""Every error that lensd raises on purpose. `lensd.reasons` has how a file ends and why.

    LensdError                 1   a person can correct it; the message ends in the remedy
    ├── UsageError             2   the command line asks for something that makes no sense
    ├── ConfigError            4   the configuration has faults; carries all of them
    ├── StorageError           5   a disk, the archive or the ledger does not do what lensd needs
    │   └── DiskUnavailable        a disk is full, read-only or away; the job waits for it
    │       ├── WorkerUnavailable      no worker process can be started; all jobs wait
    │       └── ClusterUnavailable     no worker of the cluster can do jobs; they wait too
    ├── LockedError            6   another lensd uses the state folder or watches the same folder
    └── FileError              -   the end of one file, never of the daemon; carries a Reason
        ├── Kept                   compressing the file would not help: the original stays
        ├── Skipped                lensd does not handle this file, or may not change it
        │   └── Unfinished         the file is not complete yet; its writer may complete it
        └── Failed                 compressing the file should have worked and did not

The number is the exit code of a command. Any other exception that escapes is a bug: exit code 3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from lensd.reasons import DegradedReason, Outcome, Reason

__all__ = [
    "EXIT_BUG", "EXIT_INTERRUPTED", "EXIT_OK", "EXIT_SOME_FAILED", "ClusterUnavailable",
    "ConfigError", "DegradedReason", "DiskUnavailable", "Failed", "FileError", "Kept", "LensdError",
    "LockedError", "Outcome", "PartialMeasures", "Reason", "Skipped", "StorageError", "Unfinished",
    "UsageError", "WorkerUnavailable", "bug",
]  # fmt: skip

EXIT_OK = 0
EXIT_SOME_FAILED = 1
EXIT_BUG = 3
EXIT_INTERRUPTED = 130


class LensdError(Exception):
    """An expected error: its message says what happened and what to do about it."""

    exit_code: ClassVar[int] = 1


class UsageError(LensdError):
    exit_code = 2


class ConfigError(LensdError):
    exit_code = 4


class StorageError(LensdError):
    """`path` is on the disk that has the fault, where that is known."""

    exit_code = 5

    def __init__(self, message: str, path: str | None = None) -> None:
        super().__init__(message)
        self.path = path


class DiskUnavailable(StorageError):
    """A job met a fault of a disk, not of its file: the job stays queued and lensd waits.

    `path` is on that disk. A reason that is no DegradedReason counts as an I/O error.
    """

    path: str

    def __init__(self, reason: str, path: str, message: str) -> None:
        super().__init__(message, path)
        known = reason in set(DegradedReason)
        self.reason = DegradedReason(reason) if known else DegradedReason.IO_ERROR


class WorkerUnavailable(DiskUnavailable):
    """No worker process can be started now: jobs wait as for a disk."""

    def __init__(self, error: OSError) -> None:
        super().__init__(
            DegradedReason.WORKER_UNAVAILABLE,
            "worker",
            f"no worker process can be started: {error.strerror}; end other programs, or raise the "
            "limits of lensd's service (MemoryMax=, TasksMax=, LimitNOFILE=)",
        )


class ClusterUnavailable(DiskUnavailable):
    """No worker of the cluster can do jobs now: they wait as for a disk, until `is_back()`."""

    def __init__(self, address: str, message: str, is_back: Callable[[], bool]) -> None:
        super().__init__(DegradedReason.CLUSTER_UNAVAILABLE, address, message)
        self.is_back = is_back


class LockedError(LensdError):
    exit_code = 6


@dataclass(frozen=True, slots=True)
class PartialMeasures:
    """What was measured of a file that was not compressed. None: that was not measured."""

    bytes_in: int | None = None
    sha256_in: str | None = None
    delta_error: float | None = None


class FileError(LensdError):
    """The end of one file. The message ends in the remedy.

    `disk` is a path on the disk that has the fault, None if the fault is not a disk's.
    `folder_advice` is the rest of the text, for a file in a watched folder; `message` lacks it.
    Raises ValueError for a reason that is no Reason.
    """

    outcome: ClassVar[Outcome]

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        measures: PartialMeasures = PartialMeasures(),
        disk: str | None = None,
        folder_advice: str = "",
    ) -> None:
        super().__init__(message + folder_advice)
        self.reason = Reason(reason)
        self.message = message
        self.measures = measures
        self.disk = disk
        self.folder_advice = folder_advice


class Kept(FileError):
    outcome = Outcome.KEPT


class Skipped(FileError):
    outcome = Outcome.SKIPPED


class Unfinished(Skipped):
    """The file is not complete. Its writer may complete it."""


class Failed(FileError):
    outcome = Outcome.FAILED


def bug(trace: str) -> Failed:
    """The end of a file by an unexpected exception, as its traceback."""
    return Failed(
        Reason.INTERNAL, f"a bug in lensd: {trace}\nThe file is untouched; please report this"
    )
