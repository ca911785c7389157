"""Summarizes a history as the document of a report."""

from __future__ import annotations

import datetime as dt
import heapq
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import TypeVar

from lensd.errors import Outcome, Reason
from lensd.report import hashes
from lensd.report.documents import (
    Day,
    Distribution,
    Failure,
    Hashes,
    Ratio,
    ReasonCount,
    Report,
    Sizes,
    SlowJob,
    Span,
    Unchanged,
)
from lensd.report.history import ByteTotals, History
from lensd.report.json_text import Listed
from lensd.report.period import Period
from lensd.report.record import Record
from lensd.report.records import Records
from lensd.report.sums import Sums, local_time

U = TypeVar("U", bound=Unchanged)

SLOWEST = 10
QUANTILES = (10, 50, 90, 99)  # percent
FAILED = (Outcome.FAILED, Outcome.QUARANTINED)
_LEFT = (Outcome.SKIPPED, Outcome.KEPT)
_MEANINGS: dict[str, str] = {reason: reason.text for reason in Reason}


def summarize(history: History, period: Period, now: dt.datetime, version: str) -> Report:
    """All sections of a report. Times are ISO 8601 in the time zone of `now`.

    The totals of a period are sums over its files. Without a period they are those of the ledger.
    """
    records, zone = history.records, now.tzinfo
    sums = Sums(records.select(period), zone)
    return Report(
        schema=1,
        version=version,
        made=now.isoformat(timespec="seconds"),
        source=history.source,
        period=_span(sums, period, zone),
        outcomes=_outcomes(sums, history.others if period.is_all else {}),
        bytes=_sizes(sums, history.totals if period.is_all else None),
        unknown=history.unknown,
        ratios=list(_ratios(sums)),
        delta_error=_distribution(sums.errors),
        reasons=list(_reasons(sums)),
        failures=Listed(partial(_failures, records, period, zone)),
        uncompressed=Listed(partial(_uncompressed, records, period, zone)),
        slowest=_slowest(records, period),
        days=[Day(day=day, files=s.files, saved=s.saved) for day, s in sorted(sums.days.items())],
        hashes=Listed(partial(_hashes, records, period)),
    )


def _span(sums: Sums, period: Period, zone: dt.tzinfo | None) -> Span:
    def text(when: float | None) -> str | None:
        return None if when is None else local_time(when, zone)

    return Span(
        since=text(period.since),
        until=text(period.until),
        first=text(sums.first),
        last=text(sums.last),
    )


def _outcomes(sums: Sums, others: dict[str, int]) -> dict[str, int]:
    return dict(sorted((sums.outcomes + Counter(others)).items()))


def _sizes(sums: Sums, totals: ByteTotals | None) -> Sizes:
    if totals is None:
        saved, archived = sums.before - sums.after, sum(sums.archived.values())
        totals = ByteTotals(saved, archived, saved - archived)
    return Sizes(
        before=sums.before,
        after=sums.after,
        saved_in_folders=totals.saved_in_folders,
        held_by_archive=totals.held_by_archive,
        net=totals.net,
    )


def _ratios(sums: Sums) -> Iterator[Ratio]:
    """By family and mode, in falling order of bytes."""
    for (family, mode), group in sorted(sums.groups.items(), key=lambda g: -g[1].bytes_in):
        yield Ratio(
            family=family,
            mode=mode,
            files=len(group.ratios),
            bytes_in=group.bytes_in,
            bytes_out=group.bytes_out,
            ratio=_five_digits(group.bytes_in / group.bytes_out),
            ratio_median=_five_digits(statistics.median(group.ratios)),
            delta_error_median=round(statistics.median(group.errors), 6) if group.errors else None,
        )


def _five_digits(ratio: float) -> float:
    return float(f"{ratio:.5g}")


def _distribution(errors: Sequence[float]) -> Distribution | None:
    """Quantiles by nearest rank: each is the error of one file."""
    if not errors:
        return None
    ordered = sorted(errors)
    last = len(ordered) - 1
    places = (0, *(round(q / 100 * last) for q in QUANTILES), last)
    least, p10, p50, p90, p99, most = (round(ordered[place], 6) for place in places)
    return Distribution(files=len(ordered), min=least, max=most, p10=p10, p50=p50, p90=p90, p99=p99)


def _reasons(sums: Sums) -> Iterator[ReasonCount]:
    for (outcome, reason), files in sorted(sums.reasons.items(), key=lambda c: (-c[1], c[0])):
        yield ReasonCount(
            outcome=outcome, reason=reason, files=files, meaning=_MEANINGS.get(reason, "")
        )


def _failures(records: Records, period: Period, zone: dt.tzinfo | None) -> Iterator[Failure]:
    for record in records.select(period, FAILED, newest_first=True):
        yield _unchanged(record, zone, Failure)


def _uncompressed(records: Records, period: Period, zone: dt.tzinfo | None) -> Iterator[Unchanged]:
    """The files whose last job left them as they were."""
    outcomes = _LEFT if records.one_per_path else None
    found = records.select(period, outcomes, newest_first=True)
    for record in found if records.one_per_path else _first_of_each_path(found):
        if record.outcome in _LEFT:
            yield _unchanged(record, zone, Unchanged)


def _unchanged(record: Record, zone: dt.tzinfo | None, kind: type[U]) -> U:
    return kind(
        path=record.path,
        watch=record.watch,
        outcome=record.outcome,
        when=local_time(record.when, zone),
        reason=record.reason,
        message=record.message,
    )


def _first_of_each_path(records: Iterable[Record]) -> Iterator[Record]:
    seen = set()
    for record in records:
        if record.path not in seen:
            seen.add(record.path)
            yield record


def _slowest(records: Records, period: Period) -> list[SlowJob]:
    """Of the last job of each file that has seconds."""
    found = (r for r in records.select(period, newest_first=True) if r.worked is not None)
    jobs = found if records.one_per_path else _first_of_each_path(found)
    longest = heapq.nlargest(SLOWEST, ((r.worked or 0.0, age, r) for age, r in enumerate(jobs)))
    return [
        SlowJob(path=r.path, seconds=round(worked, 3), bytes_in=r.measures.bytes_in)
        for worked, _, r in longest
    ]


def _hashes(records: Records, period: Period) -> Iterator[Hashes]:
    for record in records.select(period, (Outcome.COMPRESSED,)):
        m = record.measures
        files = m.sha256_in, m.sha256_out
        yield hashes.from_sha256(record.path, files, (m.data_sha256_in, m.data_sha256_out))
