"""What a report needs of one version of one file: how it ended, when, and what was measured.

`gc=False`: none of these can be part of a cycle, and Python's collector would visit hundreds of
thousands of them again and again.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from lensd.report.documents import FromLedger, FromLogs

# lensd writes no number beyond these limits; sums of larger ones would be meaningless.
Count = Annotated[int, Meta(ge=0, le=2**60)]
Amount = Annotated[float, Meta(ge=0, le=1e12)]
Share = Annotated[float, Meta(ge=0, le=1)]
Word = Annotated[str, Meta(min_length=1)]
Digest = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class Seconds(msgspec.Struct, frozen=True, gc=False):
    """Of a job; `total` includes `wait`, the time in which the file had to be quiet."""

    total: Amount = 0.0
    wait: Amount = 0.0


class Measures(msgspec.Struct, kw_only=True, gc=False):
    """Fields of a log line, or of the line in the ledger. None: the outcome has no such field.

    Other fields are ignored, so that the lines of a newer lensd can be read.
    """

    mode: Word | None = None
    family: Word | None = None
    naming: Word | None = None
    bytes_in: Count | None = None
    bytes_out: Count | None = None
    delta_error: Amount | None = None
    seconds: Seconds | None = None
    archive_path: str | None = None
    sha256_in: Digest | None = None
    sha256_out: Digest | None = None
    data_sha256_in: Digest | None = None  # of the data section: AutoV3
    data_sha256_out: Digest | None = None


class Spectrum(msgspec.Struct, frozen=True, gc=False):
    """The share of the energy that the first ranks of every module hold."""

    ranks: list[Count]
    energy: list[Share]


class Drawn(Measures, kw_only=True, gc=False):
    """With the fields that only pictures need."""

    blocks: dict[str, list[tuple[Count | None, Count, Amount, Amount]]] | None = None
    spectrum: Spectrum | None = None


class Record(msgspec.Struct, kw_only=True, gc=False):
    """How the job of one version of a file ended. `when`: seconds since 1970."""

    path: str
    watch: str
    job_id: str | None
    outcome: str
    when: float
    measures: Measures
    reason: str | None = None
    message: str | None = None

    @property
    def stands(self) -> bool:
        """Whether the path holds the output, as far as is known."""
        return self.outcome == "compressed"

    @property
    def saved(self) -> int:
        """Bytes that the folder saves by it."""
        m = self.measures
        return (m.bytes_in or 0) - (m.bytes_out or 0) if self.stands else 0

    @property
    def ratio(self) -> float | None:
        """How many times smaller; None where there is no output."""
        m = self.measures
        return m.bytes_in / m.bytes_out if m.bytes_in and m.bytes_out else None

    @property
    def worked(self) -> float | None:
        """Seconds of the job without its wait."""
        seconds = self.measures.seconds
        return None if seconds is None else max(0.0, seconds.total - seconds.wait)


class ByteTotals(msgspec.Struct, frozen=True):
    """Bytes that the folders save, that the archive holds, and the difference."""

    saved_in_folders: int
    held_by_archive: int
    net: int


class History(msgspec.Struct, kw_only=True):
    """All that a report is made from.

    `others`: files by outcomes that have no record (left alone, superseded). `totals`: as the
    ledger knows them, None without one. `unknown`: what the source does not contain, in words.
    """

    source: FromLedger | FromLogs
    records: list[Record]
    others: dict[str, int] = {}
    totals: ByteTotals | None = None
    unknown: list[str] = []
