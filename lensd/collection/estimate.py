"""What a collection would become and cost, from a sample of its objects."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from lensd.collection.index import Totals
from lensd.collection.rows import Row
from lensd.errors import Outcome

SHARE = 0.01
FEWEST, MOST = 20, 1000
MILLION = 10**6


class Prices(NamedTuple):
    """In any currency. `core_hour`: of one core; `egress`: for 10^9 bytes out of the source."""

    core_hour: float | None = None
    egress: float | None = None


class Estimate(NamedTuple):
    """Of all objects that are to do. `seconds`: with the processes that measured the sample.

    `bytes_out`: of the objects in the destination; `bytes_before`: of their originals.
    """

    sampled: int
    files: int
    bytes_in: int
    bytes_before: int
    bytes_out: int
    seconds: float
    outcomes: dict[str, int]

    def core_hours_per_million(self, processes: int) -> float:
        return MILLION * self.seconds * processes / max(1, self.files) / 3600

    def cost_per_million(self, prices: Prices, processes: int) -> float | None:
        """None without a price."""
        if prices.core_hour is None and prices.egress is None:
            return None
        gigabytes = MILLION * self.bytes_in / max(1, self.files) / 1e9
        core_hours = self.core_hours_per_million(processes)
        return core_hours * (prices.core_hour or 0.0) + gigabytes * (prices.egress or 0.0)


def sample_size(files: int) -> int:
    return min(files, max(FEWEST, min(MOST, round(SHARE * files))))


def extrapolate(first: list[Row], timed: list[Row], left: Totals, seconds: float) -> Estimate:
    """By bytes: large objects take longer. `seconds`: of `timed`; `first` is measured as well.

    An object that is copied counts with its size, and one that does not get to the destination with
    nothing.
    """
    sample = first + timed
    arriving = [row for row in sample if row["outcome"] == Outcome.COMPRESSED or row.get("copied")]
    factor = _share(left.bytes, sample)
    return Estimate(
        sampled=len(sample),
        files=left.files,
        bytes_in=left.bytes,
        bytes_before=round(_bytes_of(arriving) * factor),
        bytes_out=round(sum(map(_bytes_in_destination, arriving)) * factor),
        seconds=seconds * _share(left.bytes, timed),
        outcomes=dict(Counter(str(row["outcome"]) for row in sample)),
    )


def _share(whole: int, sample: list[Row]) -> float:
    """How many times as large as the sample the whole is; 0 for a sample without bytes."""
    part = _bytes_of(sample)
    return whole / part if part else 0.0


def _bytes_of(sample: list[Row]) -> int:
    return sum(row["source_size"] for row in sample)


def _bytes_in_destination(row: Row) -> int:
    size: int = row["source_size" if row.get("copied") else "bytes_out"]
    return size
