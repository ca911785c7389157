"""A history -> the numbers of a report: one document, valid under schemas/report.schema.json."""

from __future__ import annotations

import datetime as dt
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from lensd.errors import Reason
from lensd.report import hashes
from lensd.report.period import Period
from lensd.report.record import History, Record

SCHEMA = 1
SLOWEST = 10
QUANTILES = (10, 50, 90, 99)  # percent
_TROUBLE = ("failed", "quarantined")
_MEANINGS: dict[str, str] = {reason: reason.text for reason in Reason}

Document = dict[str, Any]


def chosen(records: Iterable[Record], period: Period) -> list[Record]:
    """Those that ended within a period, oldest first."""
    return sorted((r for r in records if period.has(r.when)), key=lambda r: r.when)


def summarize(history: History, period: Period, now: dt.datetime, version: str) -> Document:
    """All sections of a report. Times are ISO 8601 in `now`'s time zone, sizes are bytes.

    Without a period the totals are the ledger's own; with one they are those of the files in it.
    """
    records = chosen(history.records, period)
    zone = now.tzinfo
    return {
        "schema": SCHEMA,
        "version": version,
        "made": now.isoformat(timespec="seconds"),
        "source": history.source,
        "period": _period(records, period, zone),
        "outcomes": _outcomes(records, history.others if period.is_all else {}),
        "bytes": _bytes(records, history.totals if period.is_all else None),
        "unknown": history.unknown,
        "ratios": list(_ratios(records)),
        "delta_error": _distribution(
            [r.measures.delta_error for r in records if r.measures.delta_error is not None]
        ),
        "reasons": list(_reasons(records)),
        "failures": [_failure(r, zone) for r in records if r.outcome in _TROUBLE],
        "slowest": _slowest(records),
        "days": list(_days(records, zone)),
        "hashes": [_hashes(r) for r in records if r.outcome == "compressed"],
    }


def _period(records: Sequence[Record], period: Period, zone: dt.tzinfo | None) -> Document:
    ends = (records[0].when, records[-1].when) if records else (None, None)
    times = (*period, *ends)
    names = ("since", "until", "first", "last")
    return {n: None if t is None else local(t, zone) for n, t in zip(names, times, strict=True)}


def local(when: float, zone: dt.tzinfo | None) -> str:
    """ISO 8601, to the second."""
    return dt.datetime.fromtimestamp(when, zone).isoformat(timespec="seconds")


def _outcomes(records: Iterable[Record], others: dict[str, int]) -> dict[str, int]:
    counts = Counter(r.outcome for r in records)
    counts.update(others)
    return dict(sorted(counts.items()))


def _bytes(records: Sequence[Record], totals: dict[str, int] | None) -> Document:
    standing = [r for r in records if r.stands]
    before = sum(r.measures.bytes_in or 0 for r in standing)
    after = sum(r.measures.bytes_out or 0 for r in standing)
    if totals is None:
        held = _held(records)
        totals = {
            "saved_in_folders": before - after,
            "held_by_archive": held,
            "net": before - after - held,
        }
    return {"before": before, "after": after, **totals}


def _held(records: Iterable[Record]) -> int:
    """Bytes of the originals in the archive, each counted once."""
    originals = {
        (m.archive_path, m.sha256_in): m.bytes_in or 0
        for m in (r.measures for r in records)
        if m.archive_path is not None
    }
    return sum(originals.values())


def _ratios(records: Iterable[Record]) -> Iterator[Document]:
    """By family and mode, the most bytes first."""
    groups: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for r in records:
        if r.stands and r.ratio is not None:
            groups[r.measures.family or "unknown", r.measures.mode or "unknown"].append(r)
    for (family, mode), members in sorted(groups.items(), key=lambda g: -_sum_in(g[1])):
        before = _sum_in(members)
        after = sum(r.measures.bytes_out or 0 for r in members)
        errors = [r.measures.delta_error for r in members if r.measures.delta_error is not None]
        yield {
            "family": family,
            "mode": mode,
            "files": len(members),
            "bytes_in": before,
            "bytes_out": after,
            "ratio": _short(before / after),
            "ratio_median": _short(statistics.median(r.ratio or 0.0 for r in members)),
            "delta_error_median": round(statistics.median(errors), 6) if errors else None,
        }


def _short(ratio: float) -> float:
    """To five digits."""
    return float(f"{ratio:.5g}")


def _sum_in(records: Iterable[Record]) -> int:
    return sum(r.measures.bytes_in or 0 for r in records)


def _distribution(numbers: list[float]) -> Document | None:
    """Nearest ranks: each quantile is the number of a file."""
    if not numbers:
        return None
    ordered = sorted(numbers)
    last = len(ordered) - 1
    quantiles = {f"p{q}": round(ordered[round(q / 100 * last)], 6) for q in QUANTILES}
    ends = {"min": round(ordered[0], 6), "max": round(ordered[last], 6)}
    return {"files": len(ordered), **ends, **quantiles}


def _reasons(records: Iterable[Record]) -> Iterator[Document]:
    counts = Counter((r.outcome, r.reason) for r in records if r.reason is not None)
    for (outcome, reason), files in sorted(counts.items(), key=lambda c: (-c[1], c[0])):
        meaning = _MEANINGS.get(reason or "", "")
        yield {"outcome": outcome, "reason": reason, "files": files, "meaning": meaning}


def _failure(record: Record, zone: dt.tzinfo | None) -> Document:
    return {
        "path": record.path,
        "watch": record.watch,
        "outcome": record.outcome,
        "when": local(record.when, zone),
        "reason": record.reason,
        "message": record.message,
    }


def _slowest(records: Iterable[Record]) -> list[Document]:
    timed = [(r.worked, r) for r in records if r.worked is not None]
    timed.sort(key=lambda pair: -pair[0])
    return [
        {"path": r.path, "seconds": round(worked, 3), "bytes_in": r.measures.bytes_in}
        for worked, r in timed[:SLOWEST]
    ]


def _days(records: Iterable[Record], zone: dt.tzinfo | None) -> Iterator[Document]:
    """Files compressed a day and what they save now, days without any left away."""
    days: dict[str, list[int]] = defaultdict(list)
    for r in records:
        if r.stands:
            days[local(r.when, zone)[:10]].append(r.saved)
    for day, saved in sorted(days.items()):
        yield {"day": day, "files": len(saved), "saved": sum(saved)}


def _hashes(record: Record) -> Document:
    m = record.measures
    files = m.sha256_in, m.sha256_out
    return hashes.row(record.path, files, (m.data_sha256_in, m.data_sha256_out))
