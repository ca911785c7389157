"""One row of the ledger: its type in Python, and its form in SQLite."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lensd.store.identity import Identity
from lensd.store.ledger.states import JobState, Outcome
from lensd.store.paths import is_relative


@dataclass(frozen=True, slots=True)
class Entry:
    """One row. Paths are text with surrogate escapes; `path` is relative to `root`."""

    number: int
    job_id: str
    root: str
    watch: str
    path: str
    identity: Identity
    state: JobState
    outcome: Outcome | None
    reason: str | None
    message: str | None
    attempts: int
    redo: bool
    temporary: str | None
    staged: Identity | None
    sha256_in: str | None
    sha256_out: str | None
    bytes_in: int | None
    bytes_out: int | None
    archive_path: str | None
    archive_method: str | None
    line: dict[str, Any] | None
    version: str
    updated: float
    not_before: float | None  # wall time; a queued job is not tried sooner
    retries: int
    published: float | None  # wall time
    observed: float | None  # when it was published, by the time that lensd had seen

    @property
    def full_path(self) -> str:
        return os.path.join(self.root, self.path)

    @property
    def present(self) -> Identity:
        """The version that the row expects under its path: its published output, or its input."""
        published = self.state == JobState.PUBLISHED or self.outcome in (
            Outcome.COMPRESSED,
            Outcome.REPLACED,
        )
        return self.staged if published and self.staged is not None else self.identity

    def is_about(self, identity: Identity) -> bool:
        """Whether this is the row's file, under any path. Device numbers change with a boot."""
        known = [self.present]
        if self.state == JobState.PUBLISHING and self.staged is not None:
            known.append(self.staged)
        return any(k[1:4] == identity[1:4] for k in known)


def row_key(root: str, path: str) -> tuple[bytes, bytes]:
    """The values of the columns root and path: bytes, since names need not be UTF-8."""
    return os.fsencode(root), os.fsencode(path)


def stored(name: str, value: Any) -> Any:
    """The value that SQLite stores in a column."""
    convert = _STORED.get(name)
    return value if value is None or convert is None else convert(value)


def text(message: str) -> str:
    """A message without lone surrogates, which SQLite refuses: file names need not be UTF-8."""
    return message.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


_STORED: dict[str, Callable[[Any], Any]] = {
    "line": json.dumps,
    "staged": lambda identity: str([*identity]),  # JSON as well, in half of the time
    "archive_path": os.fsencode,
    "path": os.fsencode,
    "root": os.fsencode,
    "message": text,
}


def entry_of(row: sqlite3.Row) -> Entry:
    """The entry of a row with all columns. Raises ValueError for a damaged row."""
    try:
        return _entry_of(row)
    except (TypeError, KeyError, RecursionError) as error:
        raise ValueError(str(error)) from error


def _entry_of(row: sqlite3.Row) -> Entry:
    fields = dict(row)
    identity = Identity(*(fields[name] for name in Identity._fields))
    staged = Identity(*json.loads(fields["staged"])) if fields["staged"] else None
    archive_path, path = fields["archive_path"], os.fsdecode(fields["path"])
    if not is_relative(path):
        raise ValueError(f"{path!r} is not a path below a root")
    state, outcome = _ending(fields["state"], fields["outcome"])
    taken = ("job_id", "watch", "reason", "message", "attempts", "temporary",
             "sha256_in", "sha256_out", "bytes_in", "bytes_out", "archive_method", "version",
             "updated", "not_before", "retries", "published", "observed")  # fmt: skip
    fields.setdefault("observed", None)  # a ledger that was last written by an older lensd
    return Entry(
        number=fields["id"],
        root=os.fsdecode(fields["root"]),
        path=path,
        identity=identity,
        state=state,
        outcome=outcome,
        redo=bool(fields["redo"]),
        staged=staged,
        archive_path=None if archive_path is None else os.fsdecode(archive_path),
        line=json.loads(fields["line"]) if fields["line"] else None,
        **{name: fields[name] for name in taken},
    )


def _ending(state: str, outcome: str | None) -> tuple[JobState, Outcome | None]:
    """The values of two columns.

    Where a newer lensd wrote one that this lensd does not know, the file is one that it does not
    handle: its row stays, so that the file is left alone.
    """
    try:
        return JobState(state), None if outcome is None else Outcome(outcome)
    except ValueError:
        return JobState.DONE, Outcome.SKIPPED
