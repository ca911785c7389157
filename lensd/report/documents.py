"""What commands print with `--json`: one type a document, from which `lensd schema` is generated.

Sizes are bytes. Paths are text that any encoding can write (lensd.text.printable).
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from lensd.errors import REASONS
from lensd.jobs.verify import Finding

Count = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
Amount = Annotated[float, Meta(ge=0)]
Text = Annotated[str, Meta(min_length=1)]
Code = Annotated[str, Meta(pattern="^[a-z][a-z0-9_]*$", description="a stable word to match on")]
Reason = Annotated[str, Meta(pattern=f"^({'|'.join(sorted(REASONS))})$")]
Message = Annotated[str, Meta(min_length=1, description="cause and remedy")]
Epoch = Annotated[float, Meta(ge=0, description="seconds since 1970")]
Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
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
OUTCOMES = (
    "analyzed", "baseline", "compressed", "failed", "kept", "quarantined", "replaced", "restored",
    "skipped", "superseded",
)  # fmt: skip
Outcome = Annotated[str, Meta(pattern=f"^({'|'.join(OUTCOMES)})$")]


class Document(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A part of a document; it has no field but its own."""


class Hashes(Document):
    """The hashes by which programs and websites know a compressed file, before and after."""

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
    unreadable: Annotated[list[str], Meta(description="logs that end in the middle")]
    repeated: Annotated[Count, Meta(description="ends of jobs that were logged twice")]


class Span(Document):
    """The time that a report covers."""

    since: Annotated[Time | None, Meta(description="as requested; null: from the beginning")]
    until: Annotated[Time | None, Meta(description="as requested, not included")]
    first: Annotated[Time | None, Meta(description="when the first job ended; null: none did")]
    last: Time | None


class Sizes(Document):
    """Bytes of the files that are compressed now, and of their originals."""

    before: Count
    after: Count
    saved_in_folders: int
    held_by_archive: Annotated[Count, Meta(description="originals")]
    net: Annotated[int, Meta(description="saved less held")]


class Ratio(Document):
    """Files of one family and mode that are compressed now."""

    family: Text
    mode: Text
    files: Positive
    bytes_in: Positive
    bytes_out: Positive
    ratio: Annotated[float, Meta(gt=0, description="in / out, of all files together")]
    ratio_median: Annotated[float, Meta(gt=0)]
    delta_error_median: Amount | None


class Distribution(Document):
    """Relative delta errors over files, kept ones included. A quantile is the error of a file."""

    files: Positive
    min: Amount
    max: Amount
    p10: Amount
    p50: Amount
    p90: Amount
    p99: Amount


class ReasonCount(Document):
    """Files that ended for one reason."""

    outcome: Text
    reason: Text
    files: Positive
    meaning: Annotated[str, Meta(description="empty: a reason of another version of lensd")]


class Failure(Document):
    """A file that failed or is quarantined."""

    path: Text
    watch: str
    outcome: Annotated[str, Meta(pattern="^(failed|quarantined)$")]
    when: Time
    reason: str | None
    message: Annotated[str | None, Meta(description="cause and remedy")]


class SlowJob(Document):
    """One of the longest jobs."""

    path: Text
    seconds: Annotated[Amount, Meta(description="of the job, without its wait")]
    bytes_in: Count | None


class Day(Document):
    """What was compressed on one day."""

    day: Annotated[str, Meta(pattern=r"^\d{4}-\d\d-\d\d$")]
    files: Positive
    saved: int


class Report(Document):
    """What `lensd report --json` prints."""

    schema: Literal[1]
    version: Annotated[str, Meta(min_length=1, description="of lensd")]
    made: Time
    source: FromLedger | FromLogs
    period: Span
    outcomes: Annotated[
        dict[Outcome, Positive],
        Meta(description="files by outcome; baseline and superseded only without a period"),
    ]
    bytes: Sizes
    unknown: Annotated[
        list[Text], Meta(description="what logs alone do not contain; empty with a ledger")
    ]
    ratios: Annotated[
        list[Ratio],
        Meta(description="of the files that are compressed now; the most bytes first"),
    ]
    delta_error: Annotated[Distribution | None, Meta(description="null: none was measured")]
    reasons: list[ReasonCount]
    failures: list[Failure]
    slowest: Annotated[list[SlowJob], Meta(max_length=10)]
    days: Annotated[list[Day], Meta(description="days without a compressed file are left out")]
    hashes: Annotated[list[Hashes], Meta(description="of each file that is compressed now")]


# lensd status


class WatchedFolder(Document):
    """A watched folder of the configuration."""

    name: Text
    path: Text
    mode: Literal["analyze", "rank", "int8", "ultra"]


class Degraded(Document):
    """A watched folder that is not there, or whose events are lost."""

    watch: Text
    path: Text
    reason: Code
    message: Message
    since: Epoch


class Job(Document):
    """A job that has not ended."""

    job_id: JobId
    path: Text
    watch: Text
    bytes: Count
    attempts: Annotated[Count, Meta(description="that ended with the worker's death")]


class Problem(Job):
    """A file that failed or is quarantined."""

    reason: Reason
    message: Message


class Waiting(Document):
    """A file that is not complete yet, so that it is no job."""

    path: Text
    watch: Text
    reason: Annotated[str, Meta(min_length=1, description="in words")]
    since: Epoch


class Schedule(Document):
    """When jobs may begin."""

    window: Annotated[str, Meta(min_length=1, description="worker.schedule")]
    open: Annotated[bool, Meta(description="whether jobs begin now")]


class Totals(Document):
    """Versions of files by outcome, and bytes."""

    outcomes: dict[Outcome, Positive]
    saved_in_folders: int
    held_by_archive: Count
    net: Annotated[int, Meta(description="saved less held")]


class Status(Document):
    """What `lensd status --json` prints."""

    daemon: Annotated[Positive | None, Meta(description="its process id; null: none runs")]
    watch: list[WatchedFolder]
    degraded: Annotated[list[Degraded], Meta(description="as the running daemon reports them")]
    running: list[Job]
    queued: list[Job]
    waiting: list[Waiting]
    problems: list[Problem]
    paused: Annotated[list[Text], Meta(description="paths, or `everything`")]
    held: Annotated[str | None, Meta(description="the disk fault that all jobs wait for")]
    schedule: Schedule | None
    totals: Totals
    hashes: Annotated[list[Hashes] | UnsetType, Meta(description="with --hashes")] = UNSET


# lensd verify


class Verification(Document):
    """What `lensd verify --json` prints."""

    faults: Annotated[Count, Meta(description="files that make the exit code 1")]
    bytes: Annotated[Count, Meta(description="that were read")]
    files: list[Finding]
