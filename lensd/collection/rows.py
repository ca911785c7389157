"""The rows of a manifest: one an object, with the fields of the log's line about a file.

A row has the shape of a `file.*` line without `watch`, `job_id` and the archive, and more fields:
where the output is, and of which version of the source and with which settings it was made.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec

from lensd.collection.item import Item, Version
from lensd.errors import FileError, Outcome
from lensd.logs.measures import Compressed
from lensd.text import printable

Row = dict[str, Any]
# With these an object is done, until its source or the settings change.
FINAL = (Outcome.COMPRESSED, Outcome.KEPT, Outcome.SKIPPED)


class Head(msgspec.Struct, frozen=True):
    """The fields of a row that a later run needs."""

    path: str
    outcome: str
    settings: str
    destination: str
    source_size: int
    source_etag: str | None = None
    source_mtime: str | None = None
    sha256_out: str | None = None  # of what lensd published last, maybe of an older version

    @property
    def mark(self) -> str | None:
        """As `mark_of`; None for an object that is to be tried again."""
        version = Version(self.source_size, self.source_etag, self.source_mtime)
        is_final = self.outcome in FINAL
        return mark_of(version, self.destination, self.settings) if is_final else None


def mark_of(version: Version, destination: str, settings: str) -> str:
    """What must be as it was for an object to be done."""
    return f"{version.mark} {destination} {settings}"


def path_of(source: str, item: Item) -> str:
    """The field `path`, by which a later run finds the row."""
    return printable(f"{source.rstrip('/')}/{item.name}")


def of_output(measures: Compressed, mode: str) -> Row:
    """The fields of an object that was compressed."""
    ratio = round(measures.bytes_in / measures.bytes_out, 4)
    fields: Row = msgspec.to_builtins(measures)
    return fields | {"mode": mode, "ratio": ratio, "outcome": str(Outcome.COMPRESSED)}


def of_error(error: FileError, outcome: Outcome | None = None) -> Row:
    """The fields of an object that was not compressed."""
    measured = {
        name: value
        for name, value in msgspec.to_builtins(error.measures).items()
        if value is not None
    }
    return measured | {
        "outcome": str(outcome or error.outcome),
        "reason": str(error.reason),
        "message": printable(str(error)),
    }


def complete(fields: Row, head: Row) -> Row:
    """A row of the fields of its end, and of those that each row has."""
    now = dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds")
    return {"timestamp": now, "event": f"file.{fields['outcome']}"} | head | fields
