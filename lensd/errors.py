"""Every error that lensd raises on purpose, and the words for how a file ends and why.

    LensdError                 1   a person can correct it; the message ends in the remedy
    ├── UsageError             2   the command line asks for something that makes no sense
    ├── ConfigError            4   the configuration has faults; carries all of them
    ├── StorageError           5   a disk, the archive or the ledger does not do what lensd needs
    │   └── DiskUnavailable        a disk is full, read-only or away; the job waits for it
    ├── LockedError            6   another lensd uses the state folder or watches the same folder
    └── FileError              -   the end of one file, never of the daemon; carries a Reason
        ├── Kept                   compressing the file would not help: the original stays
        ├── Skipped                lensd does not handle this file, or may not change it
        │   └── Unfinished         the file is not complete yet; its writer may complete it
        └── Failed                 compressing the file should have worked and did not

The number is the exit code of a command. Any other exception that escapes is a bug: exit code 3.

docs/errors.md and docs/operations.md show the tables of Reason and DegradedReason.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Self

EXIT_OK = 0
EXIT_SOME_FAILED = 1
EXIT_BUG = 3
EXIT_INTERRUPTED = 130


class Outcome(StrEnum):
    """How one version of a file ended: the ledger, the log, metrics and reports use these names."""

    text: str

    def __new__(cls, value: str, text: str = "") -> Self:
        member = str.__new__(cls, value)
        member._value_ = value
        member.text = text
        return member

    BASELINE = "baseline", "the file was there before lensd first saw the folder; it is left alone"
    OUTPUT = "output", "the file is an output of lensd that came from elsewhere"
    COMPRESSED = "compressed", "the output has replaced the original"
    REPLACED = "replaced", "the file was compressed; a newer file has taken its name"
    RESTORED = "restored", "the original has replaced the output"
    ANALYZED = "analyzed", "the file was measured and not changed"
    KEPT = "kept", "compressing the file would not help: the original stays"
    SKIPPED = "skipped", "lensd does not handle this file, or may not change it"
    FAILED = "failed", "compressing the file should have worked and did not"
    QUARANTINED = "quarantined", "the file ended the worker process three times"
    SUPERSEDED = "superseded", "another version of the file came first"


class Reason(StrEnum):
    """Why a file was kept, skipped, failed or quarantined. Scripts match on these codes.

    `text` is the cause as a clause; `details` (may be empty) and `remedy` are sentences for
    docs/errors.md.
    """

    outcome: Outcome
    text: str
    details: str
    remedy: str

    # The defaults are never used: without them mypy refuses `Reason("no_gain")`.
    def __new__(
        cls,
        value: str,
        outcome: Outcome = Outcome.FAILED,
        text: str = "",
        details: str = "",
        remedy: str = "",
    ) -> Self:
        member = str.__new__(cls, value)
        member._value_ = value
        member.outcome, member.text = outcome, text
        member.details, member.remedy = details, remedy
        return member

    # Compressing would not help.
    NO_GAIN = (
        "no_gain",
        Outcome.KEPT,
        "the result would not be smaller by `min_saving`",
        (
            "`min_saving` is a share of the bytes. Extracted LoRAs and small ranks often have "
            "nothing to spare."
        ),
        (
            "Nothing; or set a lower `energy`, mode `ultra`, or a lower `min_saving`. If the "
            "message names programs, these programs cannot load int8, so the file was not "
            "quantized."
        ),
    )
    MAX_ERROR = (
        "max_error",
        Outcome.KEPT,
        "the measured error is above `max_error`",
        "",
        (
            "Set a higher `energy`, mode `rank`, or a higher `max_error`; then `lensd once "
            "--redo` with the path."
        ),
    )
    RETURNED = (
        "returned",
        Outcome.KEPT,
        "the same original came back to a path that was already published from it",
        "It came for the third time: a program (rsync, Syncthing) brings it back each time.",
        (
            "Make that program ignore the file, or sync one way only; then `lensd once --redo` "
            "with the path."
        ),
    )
    # lensd does not handle the file, or may not change it.
    EMPTY = (
        "empty",
        Outcome.SKIPPED,
        "the file has no bytes",
        "It has had none for `settle.unproven_seconds`.",
        "Download it again.",
    )
    TRUNCATED = (
        "truncated",
        Outcome.SKIPPED,
        "the file is shorter than its header says",
        (
            "It has been so for `settle.unproven_seconds`. If a download continues, the file "
            "changes, and lensd looks at it again."
        ),
        "Let the download end, or start it again.",
    )
    NOT_SAFETENSORS = (
        "not_safetensors",
        Outcome.SKIPPED,
        "the file is not a safetensors file",
        (
            "The message says what it looks like (a web page, a PyTorch pickle, a Git LFS "
            "pointer, ...). Sites that require a login often answer with a web page under the "
            "file's name."
        ),
        "Download the real file. The program that made a pickle (`.ckpt`, `.pt`) can convert it.",
    )
    BAD_HEADER = (
        "bad_header",
        Outcome.SKIPPED,
        "the safetensors header breaks the format's rules",
        (
            "Bytes overlap, are missing or follow the last tensor, keys occur twice, shapes "
            "overflow, or the header has more than 32 MiB or 16,384 tensors (LoRAs have some "
            "thousands)."
        ),
        "Download it again. If that does not help, the tool that wrote it has a bug.",
    )
    NOT_WHOLE_YET = (
        "not_whole_yet",
        Outcome.SKIPPED,
        "`once` ended while the file was still being written",
        "Or nothing proved that its writer had finished.",
        "Run `lensd once` again; the daemon waits by itself.",
    )
    NO_LORA = (
        "no_lora",
        Outcome.SKIPPED,
        "no LoRA pair is in the file",
        "It may be an embedding or a VAE, or use a naming that lensd does not know.",
        (
            "Move it to another folder, or name it under `exclude`. For an unknown naming, "
            "report the tensor name in the message."
        ),
    )
    CHECKPOINT = (
        "checkpoint",
        Outcome.SKIPPED,
        "the file is a whole model, not a LoRA",
        "",
        "Watch only the folder of LoRAs, or name the file under `exclude`.",
    )
    UNSUPPORTED_ADAPTER = (
        "unsupported_adapter",
        Outcome.SKIPPED,
        "the file is an adapter of another kind (LoHa, LoKr, OFT, BOFT, GLoRA, IA3)",
        "Such an adapter is not a product of two factors.",
        "Nothing; it stays as it is.",
    )
    UNSUPPORTED_DTYPE = (
        "unsupported_dtype",
        Outcome.SKIPPED,
        "the LoRA pairs are stored in a number format that lensd does not reduce",
        "8-bit floats, for example, are small already, and what was lost cannot be measured.",
        "Nothing; or get the 16-bit file.",
    )
    ALREADY_COMPRESSED = (
        "already_compressed",
        Outcome.SKIPPED,
        "the file is an output of lensd",
        "Its header has lensd's marks.",
        "To compress with other settings: `lensd once --redo`, which starts from the original.",
    )
    VANISHED = (
        "vanished",
        Outcome.SKIPPED,
        "the file disappeared before it could be processed",
        "It is in none of the watched folders under another name.",
        "Nothing.",
    )
    CHANGED = (
        "changed",
        Outcome.SKIPPED,
        "another program modified or replaced the file during the job",
        (
            "The newer bytes stay and become a new job. At `lensd restore`: the file under the "
            "name is not lensd's output any more."
        ),
        "Nothing; at `restore`, move the newer file away first.",
    )
    SYMLINK = (
        "symlink",
        Outcome.SKIPPED,
        "the path, or a folder above it, is a symbolic link",
        "The file lies in a folder that lensd does not watch.",
        "Put the file itself there, or watch the folder that it really lies in.",
    )
    HARDLINKED = (
        "hardlinked",
        Outcome.SKIPPED,
        "the file has other names (hard links)",
        (
            "Replacing one name would separate it from the others and need more space, not less. "
            "Deduplication tools make such links."
        ),
        "Remove the other names (`find -samefile` shows them), or replace this one by a copy.",
    )
    NOT_REGULAR = (
        "not_regular",
        Outcome.SKIPPED,
        "the path is not a regular file",
        "It is a pipe, a socket or a device.",
        "Move it to another folder.",
    )
    ADAPTER_CONFIG = (
        "adapter_config",
        Outcome.SKIPPED,
        "an adapter_config.json beside the file fixes its rank and strength",
        "The file uses peft naming, and lensd changes no other file.",
        "Move the LoRA to a folder of its own, or use `lensd compress` on a copy.",
    )
    OWNER = (
        "owner",
        Outcome.SKIPPED,
        "lensd may not give the output the owner, group, mode or attributes of the original",
        "Nothing was changed.",
        (
            "Run lensd as the owner of the files and as a member of their group "
            "([operations.md](operations.md#permissions))."
        ),
    )
    # It should have worked.
    UNREADABLE = (
        "unreadable",
        Outcome.FAILED,
        "lensd may not read the file",
        "",
        (
            "Give lensd's user read permission (`chmod`, `setfacl`); then `lensd retry` with the "
            "path. `lensd check` names folders with this problem."
        ),
    )
    NOT_FINITE = (
        "not_finite",
        Outcome.FAILED,
        "a weight is NaN or infinite",
        "The message names the module. The training failed, or the file is damaged.",
        "Download or train it again.",
    )
    VERIFY_FAILED = (
        "verify_failed",
        Outcome.FAILED,
        "the output that was read back from the disk is not what was planned",
        "Nothing was replaced.",
        "Check disk and memory (`dmesg`, `smartctl`); if both are in order, report it.",
    )
    NO_SPACE = (
        "no_space",
        Outcome.FAILED,
        "a disk is full or over its quota",
        (
            "It is the disk of the folder (the output lies beside the file for a moment) or of "
            "the archive; the message names it."
        ),
        (
            "Free space: the daemon continues by itself, and the file is still queued ([full "
            "disks](operations.md#disks-that-are-full-read-only-or-away)). After `lensd once`, "
            "start it again."
        ),
    )
    READ_ONLY = (
        "read_only",
        Outcome.FAILED,
        "a disk is mounted read-only",
        "",
        "Remount it writable; then as for `no_space`.",
    )
    IO_ERROR = (
        "io_error",
        Outcome.FAILED,
        "a disk reported an error",
        (
            "Or an archived original does not have its sha256 any more. The message names the "
            "path. The daemon tries five times (`file.postponed`)."
        ),
        "Check the disk (`dmesg`, `smartctl`); then `lensd retry` with the path.",
    )
    OUT_OF_MEMORY = (
        "out_of_memory",
        Outcome.FAILED,
        "the machine did not have enough memory for this file",
        "",
        "Close other programs or add swap, then `lensd retry` with the path.",
    )
    INTERNAL = (
        "internal",
        Outcome.FAILED,
        "a bug in lensd",
        "The message has the traceback; the file is untouched.",
        "Report it. A newer version of lensd may not have the bug: `lensd retry` with the path.",
    )
    # The file ended the worker process three times.
    WORKER_CRASHED = (
        "worker_crashed",
        Outcome.QUARANTINED,
        "the worker process died on this file three times",
        (
            "The kernel's out-of-memory killer ended it, or a library has a fault. "
            "`worker.crashed` lines have the signal: 9 is mostly that killer, 11 and 7 are "
            "faults."
        ),
        "Search `dmesg` for the out-of-memory killer; then `lensd retry` with the path.",
    )
    WORKER_MEMORY = (
        "worker_memory",
        Outcome.QUARANTINED,
        "the worker process used more memory than `worker.memory_limit` three times",
        "lensd ended it each time.",
        "Set a higher `worker.memory_limit`; then `lensd retry` with the path.",
    )
    WORKER_TIMEOUT = (
        "worker_timeout",
        Outcome.QUARANTINED,
        "the worker process did not finish this file in time three times",
        "It took longer than `worker.timeout`, or sent nothing for a minute.",
        (
            "Set a higher `worker.timeout` for very large files or a busy machine; then `lensd "
            "retry` with the path."
        ),
    )


class DegradedReason(StrEnum):
    """Why a watched folder or a disk is degraded.

    `effect` says what lensd does meanwhile. docs/operations.md has both.
    """

    text: str
    effect: str

    def __new__(cls, value: str, text: str = "", effect: str = "") -> Self:
        member = str.__new__(cls, value)
        member._value_ = value
        member.text, member.effect = text, effect
        return member

    UNREACHABLE = (
        "unreachable",
        "The folder is not there (renamed, deleted) or cannot be read.",
        "Its jobs wait.",
    )
    UNMOUNTED = (
        "unmounted",
        "Its disk is not mounted. lensd does not touch files in the empty mount point.",
        "Its jobs wait.",
    )
    MOUNTED_OVER = (
        "mounted_over",
        "Another disk is mounted over it.",
        "Its jobs wait.",
    )
    IN_USE = (
        "in_use",
        "It is back, and another lensd watches it; the message names the process.",
        "Its jobs wait.",
    )
    WATCH_LIMIT = (
        "watch_limit",
        (
            "The kernel watches only some of the folders in it; the message has the `sysctl` "
            "setting to raise."
        ),
        "lensd scans the folder every `settle.rescan_seconds`.",
    )
    NO_SPACE = (
        "no_space",
        "A disk is full or its quota is used up: the folder's, the archive's or the state's.",
        "All jobs wait.",
    )
    READ_ONLY = (
        "read_only",
        "A disk is mounted read-only.",
        "All jobs wait.",
    )
    IO_ERROR = (
        "io_error",
        "The archive's disk is away, or the ledger or the metrics cannot be written.",
        "Without the archive or the ledger all jobs wait; without the ledger new files wait too.",
    )


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
    ) -> None:
        super().__init__(message)
        self.reason = Reason(reason)
        self.measures = measures
        self.disk = disk


class Kept(FileError):
    outcome = Outcome.KEPT


class Skipped(FileError):
    outcome = Outcome.SKIPPED


class Unfinished(Skipped):
    """The file is not complete. Its writer may complete it."""


class Failed(FileError):
    outcome = Outcome.FAILED
