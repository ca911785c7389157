"""Summarizes a history as the document of a report."""

from __future__ import annotations

import datetime as dt
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
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
from lensd.report.period import Period
from lensd.report.record import ByteTotals, History, Record

U = TypeVar("U", bound=Unchanged)

SLOWEST = 10
QUANTILES = (10, 50, 90, 99)  # percent
FAILED = (Outcome.FAILED, Outcome.QUARANTINED)
_LEFT = (Outcome.SKIPPED, Outcome.KEPT)
_MEANINGS: dict[str, str] = {reason: reason.text for reason in Reason}


def in_period(records: Iterable[Record], period: Period) -> list[Record]:
    """The records of jobs that ended in the period, oldest first."""
    return sorted((r for r in records if period.has(r.when)), key=lambda r: r.when)


def summarize(history: History, period: Period, now: dt.datetime, version: str) -> Report:
    """All sections of a report. Times are ISO 8601 in the time zone of `now`.

    The totals of a period are sums over its files. Without a period they are those of the ledger.
    """
    records = in_period(history.records, period)
    zone = now.tzinfo
    return Report(
        schema=1,
        version=version,
        made=now.isoformat(timespec="seconds"),
        source=history.source,
        period=_span(records, period, zone),
        outcomes=_outcomes(records, history.others if period.is_all else {}),
        bytes=_sizes(records, history.totals if period.is_all else None),
        unknown=history.unknown,
        ratios=list(_ratios(records)),
        delta_error=_distribution(
            [r.measures.delta_error for r in records if r.measures.delta_error is not None]
        ),
        reasons=list(_reasons(records)),
        failures=[_unchanged(r, zone, Failure) for r in reversed(records) if r.outcome in FAILED],
        uncompressed=[
            _unchanged(r, zone, Unchanged)
            for r in reversed(list(_newest_of_each_path(records)))
            if r.outcome in _LEFT
        ],
        slowest=_slowest(records),
        days=list(_days(records, zone)),
        hashes=[_hashes(r) for r in records if r.is_output],
    )


def _span(records: Sequence[Record], period: Period, zone: dt.tzinfo | None) -> Span:
    def text(when: float | None) -> str | None:
        return None if when is None else local_time(when, zone)

    first, last = (records[0].when, records[-1].when) if records else (None, None)
    return Span(
        since=text(period.since), until=text(period.until), first=text(first), last=text(last)
    )


def local_time(when: float, zone: dt.tzinfo | None) -> str:
    """ISO 8601, to the second."""
    return dt.datetime.fromtimestamp(when, zone).isoformat(timespec="seconds")


def _outcomes(records: Iterable[Record], others: dict[str, int]) -> dict[str, int]:
    counts = Counter(r.outcome for r in records)
    counts.update(others)
    return dict(sorted(counts.items()))


def _sizes(records: Sequence[Record], totals: ByteTotals | None) -> Sizes:
    compressed = [r for r in records if r.is_output]
    before = sum(r.measures.bytes_in or 0 for r in compressed)
    after = sum(r.measures.bytes_out or 0 for r in compressed)
    if totals is None:
        archived = _archived_bytes(records)
        totals = ByteTotals(before - after, archived, before - after - archived)
    return Sizes(
        before=before,
        after=after,
        saved_in_folders=totals.saved_in_folders,
        held_by_archive=totals.held_by_archive,
        net=totals.net,
    )


def _archived_bytes(records: Iterable[Record]) -> int:
    """Bytes of the originals in the archive, each counted once."""
    originals = {
        (m.archive_path, m.sha256_in): m.bytes_in or 0
        for m in (r.measures for r in records)
        if m.archive_path is not None
    }
    return sum(originals.values())


def _ratios(records: Iterable[Record]) -> Iterator[Ratio]:
    """By family and mode, in falling order of bytes."""
    groups: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for r in records:
        if r.is_output and r.ratio is not None:
            groups[r.measures.family or "unknown", r.measures.mode or "unknown"].append(r)
    for (family, mode), members in sorted(groups.items(), key=lambda g: -_sum_in(g[1])):
        before = _sum_in(members)
        after = sum(r.measures.bytes_out or 0 for r in members)
        errors = [r.measures.delta_error for r in members if r.measures.delta_error is not None]
        yield Ratio(
            family=family,
            mode=mode,
            files=len(members),
            bytes_in=before,
            bytes_out=after,
            ratio=_five_digits(before / after),
            ratio_median=_five_digits(statistics.median(r.ratio or 0.0 for r in members)),
            delta_error_median=round(statistics.median(errors), 6) if errors else None,
        )


def _five_digits(ratio: float) -> float:
    return float(f"{ratio:.5g}")


def _sum_in(records: Iterable[Record]) -> int:
    return sum(r.measures.bytes_in or 0 for r in records)


def _distribution(errors: list[float]) -> Distribution | None:
    """Quantiles by nearest rank: each is the error of one file."""
    if not errors:
        return None
    ordered = [round(error, 6) for error in sorted(errors)]
    p10, p50, p90, p99 = (ordered[round(q / 100 * (len(ordered) - 1))] for q in QUANTILES)
    return Distribution(
        files=len(ordered), min=ordered[0], max=ordered[-1], p10=p10, p50=p50, p90=p90, p99=p99
    )


def _reasons(records: Iterable[Record]) -> Iterator[ReasonCount]:
    counts = Counter((r.outcome, r.reason) for r in records if r.reason)
    for (outcome, code), files in sorted(counts.items(), key=lambda c: (-c[1], c[0])):
        reason = code or ""
        yield ReasonCount(
            outcome=outcome, reason=reason, files=files, meaning=_MEANINGS.get(reason, "")
        )


def _unchanged(record: Record, zone: dt.tzinfo | None, kind: type[U]) -> U:
    return kind(
        path=record.path,
        watch=record.watch,
        outcome=record.outcome,
        when=local_time(record.when, zone),
        reason=record.reason,
        message=record.message,
    )


def _newest_of_each_path(records: Iterable[Record]) -> Iterable[Record]:
    """The last job of each file, in the order in which these ended."""
    newest: dict[str, Record] = {}
    for record in records:
        newest.pop(record.path, None)
        newest[record.path] = record
    return newest.values()


def _slowest(records: Iterable[Record]) -> list[SlowJob]:
    worked = (r for r in records if r.worked is not None)
    timed = [(r.worked or 0.0, r) for r in _newest_of_each_path(worked)]
    timed.sort(key=lambda pair: -pair[0])
    return [
        SlowJob(path=r.path, seconds=round(worked, 3), bytes_in=r.measures.bytes_in)
        for worked, r in timed[:SLOWEST]
    ]


def _days(records: Iterable[Record], zone: dt.tzinfo | None) -> Iterator[Day]:
    """The files that were compressed on each day, and the bytes that they save now."""
    days: dict[str, list[int]] = defaultdict(list)
    for r in records:
        if r.is_output:
            days[local_time(r.when, zone)[:10]].append(r.saved)
    for day, saved in sorted(days.items()):
        yield Day(day=day, files=len(saved), saved=sum(saved))


def _hashes(record: Record) -> Hashes:
    m = record.measures
    files = m.sha256_in, m.sha256_out
    return hashes.from_sha256(record.path, files, (m.data_sha256_in, m.data_sha256_out))
