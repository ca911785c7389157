"""Records -> CSV for spreadsheets: a header row, then one row a file."""

from __future__ import annotations

import csv
import datetime as dt
from collections.abc import Iterable, Iterator
from operator import attrgetter
from typing import IO

from lensd.report.record import Record
from lensd.report.summary import local
from lensd.text import visible_lines

_OF_RECORD = ("path", "watch", "job_id", "outcome")
_WHY = ("reason", "message")
_OF_MEASURES = ("mode", "family", "naming", "bytes_in", "bytes_out", "delta_error")
_OF_FILES = ("archive_path", "sha256_in", "sha256_out", "data_sha256_in", "data_sha256_out")
COLUMNS = (*_OF_RECORD, "when", *_WHY, *_OF_MEASURES, "ratio", "seconds", *_OF_FILES)
# A spreadsheet takes a cell that begins so for a formula, and runs it (OWASP: CSV injection).
_FORMULA = ("=", "+", "-", "@", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def write(records: Iterable[Record], file: IO[str], zone: dt.tzinfo | None) -> None:
    """RFC 4180 with the line ends of Unix. Empty: that end has no such value."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(map(_safe, _cells(record, zone)) for record in records)


def _cells(record: Record, zone: dt.tzinfo | None) -> Iterator[object]:
    yield from _about(record)
    yield local(record.when, zone)
    yield from _why(record)
    yield from _measured(record.measures)
    yield None if record.ratio is None else round(record.ratio, 4)
    yield None if record.worked is None else round(record.worked, 4)
    yield from _on_disk(record.measures)


_about, _why = attrgetter(*_OF_RECORD), attrgetter(*_WHY)
_measured, _on_disk = attrgetter(*_OF_MEASURES), attrgetter(*_OF_FILES)


def _safe(cell: object) -> object:
    """Control characters as escapes, and an apostrophe before what would be a formula."""
    if not isinstance(cell, str):
        return cell
    text = cell if cell.isprintable() else visible_lines(cell)  # most are: a quick look
    return f"'{text}" if text.startswith(_FORMULA) else text
