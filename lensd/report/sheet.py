"""Records -> CSV for spreadsheets: a header row, then one row a file."""

from __future__ import annotations

import csv
import datetime as dt
from collections.abc import Iterable, Iterator
from typing import IO

from lensd.report.names import visible_lines
from lensd.report.record import Record
from lensd.report.summary import local

COLUMNS = (
    "path", "watch", "job_id", "outcome", "when", "reason", "message", "mode", "family", "naming",
    "bytes_in", "bytes_out", "ratio", "delta_error", "seconds", "archive_path", "sha256_in",
    "sha256_out", "data_sha256_in", "data_sha256_out",
)  # fmt: skip
# A spreadsheet takes a cell that begins so for a formula, and runs it (OWASP: CSV injection).
_FORMULA = ("=", "+", "-", "@", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def write(records: Iterable[Record], file: IO[str], zone: dt.tzinfo | None) -> None:
    """RFC 4180 with the line ends of Unix. Empty: that end has no such value."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for record in records:
        writer.writerow([_safe(cell) for cell in _cells(record, zone)])


def _cells(record: Record, zone: dt.tzinfo | None) -> Iterator[object]:
    own = {
        "when": local(record.when, zone),
        "ratio": None if record.ratio is None else round(record.ratio, 4),
        "seconds": None if record.worked is None else round(record.worked, 4),
    }
    for column in COLUMNS:
        if column in own:
            yield own[column]
        else:
            yield getattr(record if hasattr(record, column) else record.measures, column)


def _safe(cell: object) -> object:
    """Control characters as escapes, and an apostrophe before what would be a formula."""
    if not isinstance(cell, str):
        return cell
    text = visible_lines(cell)
    return f"'{text}" if text.startswith(_FORMULA) else text
