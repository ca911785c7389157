"""Reads a report's history from the manifest of `lensd batch`, also while that runs."""

from __future__ import annotations

import datetime as dt
import os

import msgspec

from lensd.collection import manifest
from lensd.collection.rows import Row
from lensd.errors import StorageError, UsageError
from lensd.report.documents import FromManifest
from lensd.report.history import History
from lensd.report.record import Drawn, Measures, Record, Word
from lensd.report.records import OnDisk


class _Head(msgspec.Struct, kw_only=True, gc=False):
    """The fields of a row without the measures."""

    timestamp: dt.datetime
    path: Word
    outcome: Word
    reason: Word | None = None
    message: str | None = None


def history(path: str, *, drawn: bool = False) -> History:
    """All objects of a manifest. Raises StorageError, UsageError for a file that is none."""
    if not (os.path.exists(path) or os.path.exists(manifest.journal_of(path))):
        raise StorageError(f"there is no manifest {path}; `lensd batch` writes one")
    manifest.require_kind(path)
    kind = Drawn if drawn else Measures
    try:
        records = OnDisk((_record(row, kind) for row in manifest.read(path)), kind)
    except (msgspec.ValidationError, UnicodeEncodeError) as error:
        raise UsageError(f"{path} is no manifest of lensd: {error}") from None
    return History(source=FromManifest(manifest=path), records=records)


def _record(row: Row, kind: type[Measures]) -> Record:
    head = msgspec.convert(row, _Head)
    return Record(
        path=head.path,
        watch="",
        job_id=None,
        outcome=head.outcome,
        when=head.timestamp.timestamp(),
        measures=msgspec.convert(row, kind),
        reason=head.reason,
        message=head.message,
    )
