"""Writes records as CSV for spreadsheets: a header row, then one row per file."""

from __future__ import annotations

import csv
import datetime as dt
from collections.abc import Iterable, Iterator
from operator import attrgetter
from typing import IO

from lensd.report.record import Record
from lensd.report.sums import local_time
from lensd.text import visible_lines

_FILE = ("path", "watch", "job_id", "outcome")
_CAUSE = ("reason", "message")
_MEASURES = ("mode", "family", "naming", "bytes_in", "bytes_out", "delta_error")
_COPIES = ("archive_path", "sha256_in", "sha256_out", "data_sha256_in", "data_sha256_out")
COLUMNS = (*_FILE, "when", *_CAUSE, *_MEASURES, "ratio", "seconds", *_COPIES)
# A spreadsheet runs a cell with such a start as a formula (OWASP: CSV injection).
_FORMULA = ("=", "+", "-", "@", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def write(records: Iterable[Record], file: IO[str], zone: dt.tzinfo | None) -> None:
    """As RFC 4180, with line feeds as line ends. An empty cell: the outcome has no such value."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(map(_escape, _cells(record, zone)) for record in records)


def _cells(record: Record, zone: dt.tzinfo | None) -> Iterator[object]:
    yield from _get_file(record)
    yield local_time(record.when, zone)
    yield from _get_cause(record)
    yield from _get_measures(record.measures)
    yield None if record.ratio is None else round(record.ratio, 4)
    yield None if record.worked is None else round(record.worked, 4)
    yield from _get_copies(record.measures)


_get_file, _get_cause = attrgetter(*_FILE), attrgetter(*_CAUSE)
_get_measures, _get_copies = attrgetter(*_MEASURES), attrgetter(*_COPIES)


def _escape(cell: object) -> object:
    """Escape control characters, and put an apostrophe before a cell that would be a formula."""
    if not isinstance(cell, str):
        return cell
    text = cell if cell.isprintable() else visible_lines(cell)  # most are, and the check is fast
    return f"'{text}" if text.startswith(_FORMULA) else text
