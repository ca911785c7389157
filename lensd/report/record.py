"""The records that a report is made from: the outcome, time and measures of each job.

`gc=False`: the records contain no cycles, and the garbage collector would visit hundreds of
thousands of them many times.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from lensd.errors import Outcome
from lensd.logs.measures import Sha256

# lensd writes no number beyond these limits. Sums of larger numbers would be meaningless.
Count = Annotated[int, Meta(ge=0, le=2**60)]
Amount = Annotated[float, Meta(ge=0, le=1e12)]
Share = Annotated[float, Meta(ge=0, le=1)]
Word = Annotated[str, Meta(min_length=1)]


class Seconds(msgspec.Struct, frozen=True, gc=False):
    """Seconds of a job. `total` includes `wait`, the time until the file had settled."""

    total: Amount = 0.0
    wait: Amount = 0.0


class Measures(msgspec.Struct, kw_only=True, gc=False):
    """Measures of a log line, or of the line in the ledger. None: the line has no such field.

    Other fields are ignored, so that lines of a newer lensd can be read.
    """

    mode: Word | None = None
    family: Word | None = None
    naming: Word | None = None
    bytes_in: Count | None = None
    bytes_out: Count | None = None
    delta_error: Amount | None = None
    seconds: Seconds | None = None
    archive_path: str | None = None
    sha256_in: Sha256 | None = None
    sha256_out: Sha256 | None = None
    data_sha256_in: Sha256 | None = None  # of the data section: AutoV3
    data_sha256_out: Sha256 | None = None


class Spectrum(msgspec.Struct, frozen=True, gc=False):
    """The share of the energy that the first ranks of all modules contain."""

    ranks: list[Count]
    energy: list[Share]


class Drawn(Measures, kw_only=True, gc=False):
    """Measures with the fields for charts."""

    blocks: dict[str, list[tuple[Count | None, Count, Amount, Amount]]] | None = None
    spectrum: Spectrum | None = None


class Record(msgspec.Struct, kw_only=True, gc=False):
    """The outcome of the job of one version of a file. `when`: seconds since 1970.

    `inside`: the path relative to the watched folder; None where only `path` is known.
    """

    path: str
    watch: str
    job_id: str | None
    outcome: str
    when: float
    measures: Measures
    reason: str | None = None
    message: str | None = None
    inside: str | None = None

    @property
    def shown(self) -> str:
        """The path as people read it: the name of the watched folder, then the path in it."""
        root = self.root
        return f"{self.watch}{self.path.removeprefix(root)}" if root else self.path

    @property
    def root(self) -> str:
        """The watched folder; empty where it is unknown."""
        if self.inside is not None:
            return self.path.removesuffix(f"/{self.inside}")
        above, found, _ = self.path.partition(f"/{self.watch}/")
        return f"{above}/{self.watch}" if self.watch and found else ""

    @property
    def is_output(self) -> bool:
        """Whether the output is at the path, as far as is known."""
        return self.outcome == Outcome.COMPRESSED

    @property
    def saved(self) -> int:
        """Bytes that this file saves in its folder."""
        m = self.measures
        return (m.bytes_in or 0) - (m.bytes_out or 0) if self.is_output else 0

    @property
    def ratio(self) -> float | None:
        """How many times smaller the output is; None without an output."""
        m = self.measures
        return m.bytes_in / m.bytes_out if m.bytes_in and m.bytes_out else None

    @property
    def worked(self) -> float | None:
        """Seconds of the job without the waiting time."""
        seconds = self.measures.seconds
        return None if seconds is None else max(0.0, seconds.total - seconds.wait)
