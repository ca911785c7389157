"""What a collection would become and cost, from a sample of its objects."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from lensd.collection.index import Totals
from lensd.collection.rows import Row

SHARE = 0.01
FEWEST, MOST = 20, 1000
MILLION = 10**6


class Prices(NamedTuple):
    """In any currency. `core_hour`: of one core; `egress`: for 10^9 bytes out of the source."""

    core_hour: float | None = None
    egress: float | None = None


class Estimate(NamedTuple):
    """Of all objects that are to do. `seconds`: with the processes that measured the sample."""

    sampled: int
    files: int
    bytes_in: int
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


def extrapolate(sample: list[Row], left: Totals, seconds: float) -> Estimate:
    """By bytes: large objects take longer. `seconds`: of the whole sample.

    Objects that stay as they are count with their size, as they take room in a mirror.
    """
    sizes = [(row["source_size"], row.get("bytes_out")) for row in sample]
    bytes_in = sum(before for before, _ in sizes)
    bytes_out = sum(before if after is None else after for before, after in sizes)
    factor = left.bytes / bytes_in if bytes_in else 0.0
    return Estimate(
        sampled=len(sample),
        files=left.files,
        bytes_in=left.bytes,
        bytes_out=round(bytes_out * factor),
        seconds=seconds * factor,
        outcomes=dict(Counter(str(row["outcome"]) for row in sample)),
    )
