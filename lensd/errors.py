"""Every error lensd raises on purpose, each with its exit code and the reason codes of the log.

    LensdError                 1   something a person can act on; the message ends in the remedy
    ├── UsageError             2   the command line asks for something that makes no sense
    ├── ConfigError            4   the configuration has faults; carries all of them
    ├── StorageError           5   a disk, the archive or the ledger does not do what lensd needs
    │   └── DiskUnavailable        a disk is full, read-only or away; the job waits for it
    ├── LockedError            6   another lensd holds the state folder, or a watched one
    └── FileError              -   one file's end, never the daemon's; carries a stable reason
        ├── Kept                   compressing it would not help: the original stays
        ├── Skipped                not a file for lensd, or not one it may touch
        │   └── Unfinished         not yet: whoever writes it may go on and put it right
        └── Failed                 should have worked and did not

Anything else that escapes is a bug and ends a command with exit code 3.
"""

from __future__ import annotations

from typing import ClassVar

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
    """`path` is the disk's, where that is known."""

    exit_code = 5

    def __init__(self, message: str, path: str | None = None) -> None:
        super().__init__(message)
        self.path = path


class DiskUnavailable(StorageError):
    """A job met a fault of a disk, not of its file: the job stays queued and lensd waits.

    `path` is on that disk; `reason` is a key of REASONS.
    """

    path: str

    def __init__(self, reason: str, path: str, message: str) -> None:
        super().__init__(message, path)
        self.reason = reason


class LockedError(LensdError):
    exit_code = 6


class FileError(LensdError):
    """The end of one file's way. `reason` is a key of REASONS; the message ends in the remedy."""

    event: ClassVar[str] = "file.failed"

    def __init__(self, reason: str, message: str) -> None:
        if reason not in REASONS:
            raise ValueError(f"unknown reason code {reason!r}")
        super().__init__(message)
        self.reason = reason
        self.measures: dict[str, object] = {}  # what is known by then, for the log line
        self.disk: str | None = None  # a path on the disk whose fault it is


class Kept(FileError):
    event = "file.kept"


class Skipped(FileError):
    event = "file.skipped"


class Unfinished(Skipped):
    """A file that a program which goes on writing may still make whole."""


class Failed(FileError):
    event = "file.failed"


# Stable codes: people's scripts match on them. docs/errors.md explains each, as a test holds.
REASONS: dict[str, str] = {
    # kept
    "no_gain": "the result would not be smaller by `min_saving`",
    "max_error": "the measured error is above `max_error`",
    "returned": "the same original came back to a path that was already published from it",
    # skipped
    "empty": "the file has no bytes",
    "truncated": "the file is shorter than its header says",
    "not_safetensors": "the file is not a safetensors file",
    "bad_header": "the safetensors header breaks the format's rules",
    "not_whole_yet": "`once` ended while the file was still being written",
    "no_lora": "no LoRA pair is in the file",
    "checkpoint": "the file is a whole model, not a LoRA",
    "unsupported_adapter": "the file is an adapter of another kind (LoHa, LoKr, OFT, ...)",
    "unsupported_dtype": "the LoRA pairs are stored in a number format lensd does not reduce",
    "already_compressed": "the file is an output of lensd",
    "vanished": "the file was gone when its turn came",
    "changed": "somebody wrote to the file meanwhile",
    "symlink": "the path is a symbolic link",
    "hardlinked": "the file has other names",
    "not_regular": "the path is not a regular file",
    "adapter_config": "an adapter_config.json beside the file fixes its rank and strength",
    "owner": "lensd may not give the output the owner or rights of the original",
    # failed
    "unreadable": "lensd may not read the file",
    "not_finite": "a weight is NaN or infinite",
    "verify_failed": "the output read back from disk is not what was planned",
    "no_space": "a disk is full",
    "read_only": "a disk is mounted read-only",
    "io_error": "a disk reported an error",
    "out_of_memory": "the worker ran out of memory",
    "internal": "a bug in lensd",
    # quarantined
    "worker_crashed": "the worker process died on this file again and again",
    "worker_memory": "the worker process took more memory than it may on this file",
    "worker_timeout": "the worker process did not finish this file in time",
}
