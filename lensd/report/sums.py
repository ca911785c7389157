"""Sums over the records of a report, in one pass.

A record takes at most 24 bytes, and 32 more while a median is computed.
"""

from __future__ import annotations

import datetime as dt
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from lensd.errors import Outcome
from lensd.report.local_zone import LOCAL
from lensd.report.record import Measures, Record


def _numbers() -> array[float]:
    return array("d")


@dataclass(slots=True)
class Group:
    """The compressed files of one family and mode."""

    bytes_in: int = 0
    bytes_out: int = 0
    ratios: array[float] = field(default_factory=_numbers)
    errors: array[float] = field(default_factory=_numbers)

    def add(self, ratio: float, measures: Measures) -> None:
        self.bytes_in += measures.bytes_in or 0
        self.bytes_out += measures.bytes_out or 0
        self.ratios.append(ratio)
        if measures.delta_error is not None:
            self.errors.append(measures.delta_error)


@dataclass(slots=True)
class DaySum:
    files: int = 0
    saved: int = 0  # bytes


class Sums:
    """`first`, `last`: when the first and the last job ended; None: there was no job.

    `archived`: bytes of each original in the archive, by its path there and its sha256.
    """

    def __init__(self, records: Iterable[Record], zone: dt.tzinfo | None) -> None:
        """`records`: oldest first; `zone`: of the days."""
        self.first: float | None = None
        self.last: float | None = None
        self.outcomes: Counter[str] = Counter()
        self.reasons: Counter[tuple[str, str]] = Counter()
        self.before = self.after = 0  # bytes of the compressed files
        self.archived: dict[tuple[str, str | None], int] = {}
        self.errors = _numbers()
        self.groups: dict[tuple[str, str], Group] = defaultdict(Group)
        self.days: dict[str, DaySum] = defaultdict(DaySum)
        for record in records:
            self._add(record)
            if record.is_output:
                self._add_output(record, zone)

    def _add(self, record: Record) -> None:
        measures = record.measures
        self.first = record.when if self.first is None else self.first
        self.last = record.when
        self.outcomes[record.outcome] += 1
        if record.reason and record.outcome != Outcome.SUPERSEDED:
            self.reasons[record.outcome, record.reason] += 1
        if measures.archive_path is not None:
            original = measures.archive_path, measures.sha256_in
            self.archived[original] = measures.bytes_in or 0
        if measures.delta_error is not None:
            self.errors.append(measures.delta_error)

    def _add_output(self, record: Record, zone: dt.tzinfo | None) -> None:
        measures, ratio = record.measures, record.ratio
        self.before += measures.bytes_in or 0
        self.after += measures.bytes_out or 0
        day = self.days[local_time(record.when, zone)[:10]]
        day.files += 1
        day.saved += record.saved
        if ratio is not None:
            kind = measures.family or "unknown", measures.mode or "unknown"
            self.groups[kind].add(ratio, measures)


def local_time(when: float, zone: dt.tzinfo | None) -> str:
    """ISO 8601, to the second."""
    is_local = zone is LOCAL  # then this way takes a third of the time
    there = dt.datetime.fromtimestamp(when, None if is_local else zone)
    return (there.astimezone() if is_local else there).isoformat(timespec="seconds")
