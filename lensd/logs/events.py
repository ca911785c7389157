"""Every event of the log: its name, its level and its fields, each defined once.

`lensd.logs.log.emit` writes one as a line. The JSON Schema of the log (events.schema.json beside
this module) and the table in docs/operations.md are made from these types: docstrings and `Meta`
descriptions are the texts that users read there. A field that is UNSET is absent from the line.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar, Literal, get_args

from msgspec import UNSET, Meta, Struct, UnsetType

from lensd.errors import DegradedReason, FileError, Outcome, Reason
from lensd.logs.measures import Amount, Analyzed, Compressed, Count, Positive, Seconds, Sha256, Text

SCHEMA = 1  # the version of the lines' format


class Level(StrEnum):
    """From the least to the most important."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
    CRITICAL = "critical"


Pid = Annotated[int, Meta(ge=1)]
Code = Annotated[str, Meta(pattern="^[a-z][a-z0-9_]*$", description="a stable word to match on")]
JobId = Annotated[str, Meta(min_length=1, description="the job's name in the ledger")]
JobIdOrNull = Annotated[str | None, Meta(description="null: no job yet, or none any more")]
Message = Annotated[Text, Meta(description="cause and remedy, for people")]
WatchName = Annotated[Text, Meta(description="the name of the watched folder")]
Why = Annotated[
    DegradedReason,
    Meta(description="why the folder or disk is degraded; explained in docs/operations.md"),
]
WatchOrNull = Annotated[
    Text | None, Meta(description="null: not a watched folder (archive, state)")
]
ConfigFile = Annotated[Text, Meta(description="the configuration file")]
PausedPaths = Annotated[list[Text], Meta(description="empty: everything")]
Recovered = Annotated[
    bool,
    Meta(
        description="a crash had lost this line; it comes from the ledger",
        extra_json_schema={"const": True},
    ),
]


class Line(Struct, frozen=True, kw_only=True):
    """What every line has."""

    timestamp: Annotated[
        str,
        Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$", description="UTC, ISO 8601"),
    ]
    level: Annotated[Level, Meta(description="debug, info, warning, error or critical")]
    event: Text
    schema: Literal[1]
    message: Message | UnsetType = UNSET


class Event(Struct, frozen=True, kw_only=True, tag_field="event"):
    """Base of all events."""

    level: ClassVar[Level] = Level.INFO

    @property
    def name(self) -> str:
        """E.g. `file.compressed`."""
        return name_of(type(self))


def name_of(kind: type[Event]) -> str:
    """The name of a type's events, e.g. `file.compressed`."""
    return str(kind.__struct_config__.tag)


class DaemonStarted(Event, frozen=True, kw_only=True, tag="daemon.started"):
    """The daemon begins."""

    version: Text
    pid: Pid
    config: ConfigFile


class DaemonReady(Event, frozen=True, kw_only=True, tag="daemon.ready"):
    """All folders are watched and scanned."""

    watches: Annotated[list[str], Meta(description="names of the watched folders")]
    queued: Annotated[Count, Meta(description="jobs resumed")]
    seconds: Annotated[Amount, Meta(description="since daemon.started")]


class DaemonBaseline(Event, frozen=True, kw_only=True, tag="daemon.baseline"):
    """lensd sees a folder for the first time; the files in it are recorded and left alone."""

    watch: WatchName
    path: Text
    files: Count
    bytes: Count
    symlinked_folders: Annotated[
        list[Text],
        Meta(description="not entered; watch what they point to as folders of their own"),
    ]


class DaemonRebuilt(Event, frozen=True, kw_only=True, tag="daemon.rebuilt"):
    """The ledger was lost or damaged; outputs and originals of a folder are known again."""

    watch: WatchName
    files: Annotated[Count, Meta(description="outputs, recognized by their marks")]
    bytes: Annotated[Count, Meta(description="of these outputs")]
    originals: Annotated[
        Count,
        Meta(
            description="archived originals that no output in the folder names: deleted, or older "
            "ones"
        ),
    ]
    message: Message


class DaemonDegraded(Event, frozen=True, kw_only=True, tag="daemon.degraded"):
    """A folder or disk does not do what is needed; lensd continues without it."""

    level: ClassVar[Level] = Level.ERROR
    watch: WatchOrNull
    path: Text
    reason: Why
    message: Message


class DaemonRecovered(Event, frozen=True, kw_only=True, tag="daemon.recovered"):
    """A degraded folder or disk works again."""

    watch: WatchOrNull
    path: Text
    reason: Why
    message: Message


class DaemonReloaded(Event, frozen=True, kw_only=True, tag="daemon.reloaded"):
    """SIGHUP: the configuration was read again and is in force."""

    config: ConfigFile


class DaemonRefused(Event, frozen=True, kw_only=True, tag="daemon.refused"):
    """SIGHUP: the configuration has faults; the old one stays in force."""

    level: ClassVar[Level] = Level.ERROR
    config: ConfigFile
    message: Message


class DaemonError(Event, frozen=True, kw_only=True, tag="daemon.error"):
    """A bug in lensd ended a request, or a row of the ledger is damaged; lensd itself continues."""

    level: ClassVar[Level] = Level.ERROR
    request: Annotated[Text | None, Meta(description="the command; null: it was not readable")]
    message: Message
    exception: Annotated[str, Meta(description="the traceback of a bug")]


class DaemonPaused(Event, frozen=True, kw_only=True, tag="daemon.paused"):
    """`lensd pause`: no job begins there until `lensd resume`."""

    paths: PausedPaths


class DaemonResumed(Event, frozen=True, kw_only=True, tag="daemon.resumed"):
    """`lensd resume`: jobs begin again."""

    paths: PausedPaths


class DaemonPruned(Event, frozen=True, kw_only=True, tag="daemon.pruned"):
    """The daily pass found originals older than `archive.keep_days`."""

    files: Annotated[Count, Meta(description="originals deleted")]
    bytes: Count
    kept: Annotated[Count, Meta(description="old originals that stay, for a reason")]
    message: Message


class DaemonClock(Event, frozen=True, kw_only=True, tag="daemon.clock"):
    """The clock was set by more than an hour; no original is deleted for a day."""

    level: ClassVar[Level] = Level.WARNING
    seconds: Annotated[float, Meta(description="by which it was set; below 0: back")]
    message: Message


class DaemonStopping(Event, frozen=True, kw_only=True, tag="daemon.stopping"):
    """The daemon ends in order."""

    signal: Annotated[Text | None, Meta(description="e.g. SIGTERM; null: no signal")]


Host = Annotated[
    Text | UnsetType,
    Meta(description="the address of a worker of the cluster; absent: this machine"),
]


class WorkerStarted(Event, frozen=True, kw_only=True, tag="worker.started"):
    """The worker process has started."""

    pid: Pid
    device: Text
    torch: Annotated[Text, Meta(description="its version")]
    kernels: Annotated[
        Text | UnsetType,
        Meta(description="what computes: native avx2, native avx512, native generic or python"),
    ] = UNSET
    seconds: Annotated[Amount, Meta(description="that the start took")]
    processes: Annotated[
        Count | UnsetType,
        Meta(description="how many worker processes run at most; absent: of a cluster"),
    ] = UNSET
    host: Host = UNSET


class WorkerStopped(Event, frozen=True, kw_only=True, tag="worker.stopped"):
    """lensd ended the worker process."""

    pid: Pid
    reason: Code
    host: Host = UNSET


class WorkerCrashed(Event, frozen=True, kw_only=True, tag="worker.crashed"):
    """The worker process died or hung."""

    level: ClassVar[Level] = Level.ERROR
    pid: Pid
    exit: Annotated[
        int | None, Meta(description="exit status; negative: the signal; null: unknown")
    ]
    job_id: JobIdOrNull
    message: Message
    host: Host = UNSET


class FileEvent(Event, frozen=True, kw_only=True):
    """What every line about a file has."""

    path: Text
    watch: WatchName
    job_id: JobIdOrNull
    recovered: Recovered | UnsetType = UNSET


class FileDetected(FileEvent, frozen=True, kw_only=True, tag="file.detected"):
    """A file is there that may become a job."""

    bytes: Count


class FileSettled(FileEvent, frozen=True, kw_only=True, tag="file.settled"):
    """The file is whole and quiet: it is a job."""

    job_id: JobId
    bytes: Count
    wait: Annotated[Amount, Meta(description="seconds since it was detected")]


class CompressedSeconds(Seconds, frozen=True, kw_only=True):
    """total includes wait"""

    wait: Amount
    write: Amount
    verify: Amount
    archive: Amount
    total: Amount


class AnalyzedSeconds(Seconds, frozen=True, kw_only=True):
    """total includes wait"""

    wait: Amount
    total: Amount


class FileCompressed(Compressed, Event, frozen=True, kw_only=True, tag="file.compressed"):
    """The canonical line, one per compressed file."""

    path: Text
    watch: WatchName
    job_id: JobId
    recovered: Recovered | UnsetType = UNSET
    mode: Literal["rank", "int8", "ultra"]
    ratio: Annotated[float, Meta(gt=0, description="in / out")]
    seconds: CompressedSeconds
    archive_method: Literal["link", "reflink", "copy"]
    archive_path: Text
    publish: (
        Annotated[
            Literal["exchange", "link", "rename"],
            Meta(
                description="how the output took the name: an exchange; where the disk has none, a "
                "rename after a second link to the original; rename: the weakest way, without links"
            ),
        ]
        | UnsetType
    ) = UNSET
    lease: (
        Annotated[bool, Meta(description="whether a read lease protected the file")] | UnsetType
    ) = UNSET


class FileAnalyzed(Analyzed, Event, frozen=True, kw_only=True, tag="file.analyzed"):
    """What compressing the file would give; nothing was changed."""

    path: Text
    watch: WatchName
    job_id: JobId
    recovered: Recovered | UnsetType = UNSET
    mode: Literal["analyze"]
    seconds: AnalyzedSeconds


class FileEnd(FileEvent, frozen=True, kw_only=True):
    """A file that was not compressed."""

    reason: Annotated[Reason, Meta(description="why a file ended so; explained in docs/errors.md")]
    message: Message
    bytes_in: Count | UnsetType = UNSET
    sha256_in: Sha256 | UnsetType = UNSET
    delta_error: Amount | UnsetType = UNSET
    attempts: Positive | UnsetType = UNSET


class FileKept(FileEnd, frozen=True, kw_only=True, tag="file.kept"):
    """Compressing it would not help: the original stays."""


class FileSkipped(FileEnd, frozen=True, kw_only=True, tag="file.skipped"):
    """lensd does not handle the file, or may not change it."""

    level: ClassVar[Level] = Level.WARNING


class FilePostponed(FileEnd, frozen=True, kw_only=True, tag="file.postponed"):
    """A disk reported an error; lensd tries the file again by itself."""

    level: ClassVar[Level] = Level.WARNING
    retry_seconds: Amount


class FileFailed(FileEnd, frozen=True, kw_only=True, tag="file.failed"):
    """It should have worked and did not; `lensd retry` tries again."""

    level: ClassVar[Level] = Level.ERROR


class FileQuarantined(FileEnd, frozen=True, kw_only=True, tag="file.quarantined"):
    """It ended the worker process again and again; `lensd retry` tries once more."""

    level: ClassVar[Level] = Level.ERROR


class FileRestored(FileEvent, frozen=True, kw_only=True, tag="file.restored"):
    """The original is back under its name."""

    sha256: Sha256
    method: Code
    bytes: Count
    recovered: Recovered | UnsetType = UNSET


class FileRescued(FileEvent, frozen=True, kw_only=True, tag="file.rescued"):
    """Newer bytes of another program were found beside a file and moved to the archive."""

    level: ClassVar[Level] = Level.WARNING
    rescued_path: Text
    message: Message


class FilePruned(FileEvent, frozen=True, kw_only=True, tag="file.pruned"):
    """Its original was older than `archive.keep_days` and was deleted from the archive."""

    job_id: JobId
    sha256: Sha256
    bytes: Count
    archive_path: Text


class FileDeleted(FileEvent, frozen=True, kw_only=True, tag="file.deleted"):
    """A person has deleted a file that lensd had processed, or an original in the archive."""

    job_id: JobId
    what: Literal["file", "original"]
    bytes: Count
    message: Message


class FileMoved(FileEvent, frozen=True, kw_only=True, tag="file.moved"):
    """A known file has another path now; job, outcome and original follow it."""

    job_id: JobId
    from_path: Annotated[Text, Meta(description="its path before")]


_ENDS: dict[Outcome, type[FileKept | FileSkipped | FileFailed]] = {
    Outcome.KEPT: FileKept,
    Outcome.SKIPPED: FileSkipped,
    Outcome.FAILED: FileFailed,
}


def file_end(
    error: FileError, *, path: str, watch: str, job_id: str | None, message: str | None = None
) -> FileKept | FileSkipped | FileFailed:
    """The event of a file that was not compressed. `message`: instead of the error's own."""
    known = error.measures
    return _ENDS[error.outcome](
        path=path,
        watch=watch,
        job_id=job_id,
        reason=error.reason,
        message=message or str(error),
        bytes_in=UNSET if known.bytes_in is None else known.bytes_in,
        sha256_in=UNSET if known.sha256_in is None else known.sha256_in,
        delta_error=UNSET if known.delta_error is None else known.delta_error,
    )


# In the order of the schema and of the table in docs/operations.md.
AnyEvent = (
    DaemonStarted
    | DaemonReady
    | DaemonBaseline
    | DaemonRebuilt
    | DaemonDegraded
    | DaemonRecovered
    | DaemonReloaded
    | DaemonRefused
    | DaemonError
    | DaemonPaused
    | DaemonResumed
    | DaemonPruned
    | DaemonClock
    | DaemonStopping
    | WorkerStarted
    | WorkerStopped
    | WorkerCrashed
    | FileDetected
    | FileSettled
    | FileCompressed
    | FileAnalyzed
    | FileKept
    | FileSkipped
    | FilePostponed
    | FileFailed
    | FileQuarantined
    | FileRestored
    | FileRescued
    | FilePruned
    | FileDeleted
    | FileMoved
)
EVENTS: tuple[type[AnyEvent], ...] = get_args(AnyEvent)

# The last line about a job, and those that mean failure.
JobEnd = FileCompressed | FileAnalyzed | FileKept | FileSkipped | FileFailed | FileQuarantined
Failure = FileFailed | FileQuarantined
