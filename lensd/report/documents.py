"""The types of the documents that commands print with `--json`.

`lensd schema` generates the JSON Schemas from them; descriptions become part of the schemas. Sizes
are bytes. Paths are valid Unicode (lensd.text.printable).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from lensd.errors import Outcome, Reason
from lensd.jobs.verify import Finding
from lensd.logs import measures
from lensd.logs.measures import Amount, Count, Positive, Sha256, Text

Code = Annotated[str, Meta(pattern="^[a-z][a-z0-9_]*$", description="a stable word to match on")]
ReasonCode = Annotated[str, Meta(pattern=f"^({'|'.join(sorted(Reason))})$")]
Message = Annotated[str, Meta(min_length=1, description="cause and remedy")]
Epoch = Annotated[float, Meta(ge=0, description="seconds since 1970")]
AutoV2 = Annotated[
    str | None,
    Meta(description="the first 10 digits of the file's sha256; null: not known"),
]
AutoV3 = Annotated[
    str | None,
    Meta(
        description="the first 12 digits of the sha256 of the data section, without the header; "
        "null: not known"
    ),
]
Time = Annotated[str, Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d$")]
JobId = Annotated[str, Meta(min_length=1)]
OutcomeName = Annotated[str, Meta(pattern=f"^({'|'.join(sorted(Outcome))})$")]


class Document(msgspec.Struct, kw_only=True):
    """A document, or a part of one."""


class Hashes(Document):
    """The hashes by which programs and websites know a compressed file and its original."""

    original: Annotated[Sha256 | None, Meta(description="sha256 of the file; null: not known")]
    original_autov2: AutoV2
    original_autov3: AutoV3
    output: Annotated[Sha256 | None, Meta(description="sha256 of the file; null: not known")]
    output_autov2: AutoV2
    output_autov3: AutoV3
    path: Text


# lensd report


class FromLedger(Document, tag="ledger", tag_field="kind"):
    """The report was made from the ledger."""

    state: Annotated[str, Meta(description="the state folder")]


class FromLogs(Document, tag="log", tag_field="kind"):
    """The report was made from logs alone."""

    logs: Annotated[list[str], Meta(min_length=1)]
    lines: Count
    foreign: Annotated[Count, Meta(description="lines that lensd did not write")]
    cut: Annotated[Count, Meta(description="incomplete lines")]
    unreadable: Annotated[list[str], Meta(description="logs that could be read only in part")]
    repeated: Annotated[Count, Meta(description="outcomes that were logged twice")]


class FromManifest(Document, tag="manifest", tag_field="kind"):
    """The report was made from the manifest of `lensd batch`."""

    manifest: Text


class Span(Document):
    """The period of a report."""

    since: Annotated[Time | None, Meta(description="as requested; null: from the beginning")]
    until: Annotated[Time | None, Meta(description="as requested, not included")]
    first: Annotated[Time | None, Meta(description="when the first job ended; null: no job ended")]
    last: Time | None


class Sizes(Document):
    """Bytes of the compressed files and of their originals."""

    before: Count
    after: Count
    saved_in_folders: int
    held_by_archive: Annotated[Count, Meta(description="bytes of originals")]
    net: Annotated[int, Meta(description="saved_in_folders - held_by_archive")]


class Ratio(Document):
    """The compressed files of one family and mode."""

    family: Text
    mode: Text
    files: Positive
    bytes_in: Positive
    bytes_out: Positive
    ratio: Annotated[float, Meta(gt=0, description="bytes_in / bytes_out")]
    ratio_median: Annotated[float, Meta(gt=0)]
    delta_error_median: Amount | None


class Distribution(Document):
    """Relative delta errors of files, including kept ones. Each quantile is the error of a file."""

    files: Positive
    min: Amount
    max: Amount
    p10: Amount
    p50: Amount
    p90: Amount
    p99: Amount


class ReasonCount(Document):
    """The files with one outcome and reason."""

    outcome: Text
    reason: Text
    files: Positive
    meaning: Annotated[str, Meta(description="empty: another version of lensd wrote the reason")]


class Unchanged(Document):
    """A file that was not compressed."""

    path: Text
    watch: str
    outcome: OutcomeName
    when: Time
    reason: str | None
    message: Annotated[str | None, Meta(description="cause and remedy")]


class Failure(Unchanged):
    """A failed or quarantined file."""

    outcome: Annotated[str, Meta(pattern="^(failed|quarantined)$")]


class SlowJob(Document):
    """One of the slowest jobs."""

    path: Text
    seconds: Annotated[Amount, Meta(description="of the job, without the waiting time")]
    bytes_in: Count | None


class Day(Document):
    """The files that were compressed on one day."""

    day: Annotated[str, Meta(pattern=r"^\d{4}-\d\d-\d\d$")]
    files: Positive
    saved: int


class Report(Document):
    """The output of `lensd report --json`."""

    schema: Literal[1]
    version: Annotated[str, Meta(min_length=1, description="of lensd")]
    made: Time
    source: FromLedger | FromLogs | FromManifest
    period: Span
    outcomes: Annotated[
        dict[OutcomeName, Positive],
        Meta(description="files by outcome; baseline and superseded only without a period"),
    ]
    bytes: Sizes
    unknown: Annotated[
        list[Text], Meta(description="what logs alone do not contain; empty for a ledger")
    ]
    ratios: Annotated[
        list[Ratio],
        Meta(description="of the compressed files, in falling order of bytes"),
    ]
    delta_error: Annotated[Distribution | None, Meta(description="null: no error was measured")]
    reasons: list[ReasonCount]
    failures: Annotated[Collection[Failure], Meta(description="the newest first")]
    uncompressed: Annotated[
        Collection[Unchanged], Meta(description="skipped and kept files, the newest first")
    ]
    slowest: Annotated[list[SlowJob], Meta(max_length=10)]
    days: Annotated[list[Day], Meta(description="days without compressed files are left out")]
    hashes: Annotated[Collection[Hashes], Meta(description="of each compressed file")]


# lensd status


class WatchedFolder(Document):
    """A watched folder of the configuration."""

    name: Text
    path: Text
    mode: Literal["analyze", "rank", "int8", "ultra"]


class Filesystem(Document):
    """What lensd has proven a filesystem to do, with files of its own; null: not proven."""

    point: Annotated[Text, Meta(description="where it is mounted")]
    kind: Annotated[Text, Meta(description="as /proc/self/mountinfo has it")]
    commits_by: Annotated[
        Literal["exchange", "link", "rename"] | None,
        Meta(description="as `publish` of file.compressed"),
    ]
    enforces_leases: Annotated[
        bool, Meta(description="against every writer; else lensd waits longer and copies originals")
    ]
    unknown_because: Annotated[
        str | None, Meta(description="why nothing could be tried; lensd tries again at a job")
    ]
    grants_leases: bool | None
    exchange: Annotated[bool | None, Meta(description="of two names, by renameat2")]
    exchange_sets_ctime: bool | None
    rename_noreplace: bool | None
    hard_links: bool | None
    folder_fsync: bool | None
    case_sensitive: bool | None
    stable_inodes: Annotated[
        bool | None, Meta(description="the same after an open and after a rename")
    ]
    wide_inodes: Annotated[bool | None, Meta(description="of more than 32 bits")]
    ctime_resolution_ns: Annotated[Count | None, Meta(description="in nanoseconds")]


class Degraded(Document):
    """A watched folder or a disk that does not work as needed."""

    watch: Text
    path: Text
    reason: Code
    message: Message
    since: Epoch


class Job(Document):
    """A running or queued job."""

    job_id: JobId
    path: Text
    watch: Text
    bytes: Count
    attempts: Annotated[Count, Meta(description="that ended the worker process")]


class Problem(Job):
    """A file that was not compressed, in the version that was processed last."""

    outcome: OutcomeName
    when: Annotated[Epoch, Meta(description="when the job ended, in seconds since 1970")]
    reason: ReasonCode
    message: Message


class Waiting(Document):
    """A file that is not a job yet, because it is not complete."""

    path: Text
    watch: Text
    reason: Annotated[str, Meta(min_length=1, description="in words")]
    since: Epoch


class Schedule(Document):
    """The hours in which jobs start."""

    window: Annotated[str, Meta(min_length=1, description="worker.schedule")]
    open: Annotated[bool, Meta(description="whether jobs start now")]


class Totals(Document, kw_only=True):
    """The number of versions of files by outcome, and bytes."""

    outcomes: dict[OutcomeName, Positive] = {}
    saved_in_folders: int = 0
    held_by_archive: Annotated[Count, Meta(description="bytes of originals")] = 0
    net: Annotated[int, Meta(description="saved_in_folders - held_by_archive")] = 0


class Status(Document, kw_only=True):
    """The output of `lensd status --json`."""

    daemon: Annotated[Positive | None, Meta(description="process id; null: not running")]
    watch: list[WatchedFolder]
    degraded: Annotated[list[Degraded], Meta(description="reported by the running daemon")] = []
    running: list[Job] = []
    queued: list[Job] = []
    waiting: list[Waiting] = []
    problems: Annotated[
        list[Problem], Meta(description="failed and quarantined files, the newest first")
    ] = []
    uncompressed: Annotated[
        list[Problem], Meta(description="skipped and kept files, the newest first")
    ] = []
    paused: Annotated[list[Text], Meta(description="paths, or `everything`")] = []
    held: Annotated[str | None, Meta(description="the disk faults for which jobs wait")] = None
    schedule: Schedule | None
    totals: Totals
    filesystems: Annotated[
        list[Filesystem], Meta(description="of folders and archive, as the last start proved them")
    ] = []
    hashes: Annotated[list[Hashes] | UnsetType, Meta(description="only with --hashes")] = UNSET


# lensd verify


class Verification(Document):
    """The output of `lensd verify --json`."""

    faults: Annotated[Count, Meta(description="files that make the exit code 1")]
    bytes: Annotated[Count, Meta(description="that lensd read")]
    files: list[Finding]


# lensd analyze, lensd compress: one line per file


class Unprocessed(Document):
    """A file that lensd could not analyze or compress."""

    path: Text
    reason: Reason
    message: Message


class Analysis(measures.Detailed, kw_only=True, frozen=True):
    """A file that lensd analyzed."""

    path: Text


class Compression(measures.Compressed, kw_only=True, frozen=True):
    """A file that lensd compressed to a new file."""

    path: Text
    output: Annotated[Text, Meta(description="the path of the new file")]
    mode: Literal["rank", "int8", "ultra"]
    data_sha256_out: Sha256
