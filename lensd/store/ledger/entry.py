"""One row of the ledger, as Python has it and as SQLite stores it."""

from __future__ import annotations

import json
import os
import sqlite3
from dataclasses import dataclass
from typing import Any

from lensd.store.identity import Identity


@dataclass(frozen=True, slots=True)
class Entry:
    """One row. Paths are text with surrogate escapes; `path` is relative to `root`."""

    number: int
    job_id: str
    root: str
    watch: str
    path: str
    identity: Identity
    state: str
    outcome: str | None
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

    @property
    def full_path(self) -> str:
        return os.path.join(self.root, self.path)

    @property
    def present(self) -> Identity:
        """What lies under the path by this row: the output of a finished job, else its input."""
        published = self.state == "published" or self.outcome in ("compressed", "replaced")
        return self.staged if published and self.staged is not None else self.identity

    def is_about(self, identity: Identity) -> bool:
        """Whether this is the row's file, whatever its path. Device numbers change with a boot."""
        known = [self.present]
        if self.state == "publishing" and self.staged is not None:
            known.append(self.staged)
        return any(k[1:4] == identity[1:4] for k in known)


def row_key(root: str, path: str) -> tuple[bytes, bytes]:
    """root and path are stored as bytes, since names need not be UTF-8."""
    return os.fsencode(root), os.fsencode(path)


def stored(name: str, value: Any) -> Any:
    if name in ("line", "staged") and value is not None:
        return json.dumps(value, ensure_ascii=True)
    if name in ("archive_path", "path", "root") and value is not None:
        return os.fsencode(value)
    return text(value) if name == "message" and value is not None else value


def text(message: str) -> str:
    """SQLite takes no lone surrogates, and a message may name a file that is not UTF-8."""
    return message.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def entry_of(row: sqlite3.Row) -> Entry:
    fields = dict(row)
    identity = Identity(*(fields[name] for name in Identity._fields))
    staged = Identity(*json.loads(fields["staged"])) if fields["staged"] else None
    archive_path = fields["archive_path"]
    taken = ("job_id", "watch", "state", "outcome", "reason", "message", "attempts", "temporary",
             "sha256_in", "sha256_out", "bytes_in", "bytes_out", "archive_method", "version",
             "updated", "not_before", "retries", "published")  # fmt: skip
    return Entry(
        number=fields["id"],
        root=os.fsdecode(fields["root"]),
        path=os.fsdecode(fields["path"]),
        identity=identity,
        redo=bool(fields["redo"]),
        staged=staged,
        archive_path=None if archive_path is None else os.fsdecode(archive_path),
        line=json.loads(fields["line"]) if fields["line"] else None,
        **{name: fields[name] for name in taken},
    )
