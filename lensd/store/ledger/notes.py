"""Single values that the ledger keeps under a name, each of one type."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from lensd.store.ledger.database import Database
from lensd.store.ledger.entry import text
from lensd.store.ledger.roots import RootIdentity

T = TypeVar("T")


class DegradedRoot(msgspec.Struct, frozen=True):
    """A watched folder with a problem, as the daemon last reported it."""

    watch: str
    path: str  # as the configuration writes it
    reason: str
    message: str
    since: float  # wall time


class RenamingOriginal(NamedTuple):
    """Two names in the archive between which an original is moving; a crash may leave both."""

    old: str
    new: str


class PruneInProgress(NamedTuple):
    """The original that is being deleted: the job of its row, and its paths in the archive."""

    job_id: str
    paths: tuple[str, ...]


class ArchiveIdentity(NamedTuple):
    """The archive as lensd last used it: its path, and the fields of a RootIdentity."""

    path: str
    device: int
    inode: int
    mount: str | None

    @property
    def folder(self) -> RootIdentity:
        return RootIdentity(self.device, self.inode, self.mount)


class Note(Generic[T]):
    """One value of the `meta` table. `decode` may raise for a text that is not such a value."""

    def __init__(
        self, database: Database, key: str, encode: Callable[[T], str], decode: Callable[[str], T]
    ) -> None:
        self._database = database
        self._key = key
        self._encode = encode
        self._decode = decode

    def get(self) -> T | None:
        """None: it is not set, or it is damaged."""
        query = "SELECT CAST(value AS BLOB) FROM meta WHERE key = ?"
        rows = self._database.read(query, self._key)
        try:
            return self._decode(rows[0][0].decode()) if rows else None
        except (ValueError, TypeError, RecursionError):
            return None

    def set(self, value: T) -> None:
        with self._database.change() as db:
            query = "INSERT OR REPLACE INTO meta VALUES (?, ?)"
            db.execute(query, (self._key, self._encode(value)))

    def clear(self) -> None:
        with self._database.change() as db:
            db.execute("DELETE FROM meta WHERE key = ?", (self._key,))


def text_note(database: Database, key: str) -> Note[str]:
    """A text for people."""
    return Note(database, key, text, str)


def json_note(database: Database, key: str, kind: type[T]) -> Note[T]:
    """A value of a type that JSON and msgspec know; named tuples are arrays."""
    # json and not msgspec reads the text: only json takes names that are not UTF-8
    return Note(database, key, _to_json, lambda found: msgspec.convert(json.loads(found), kind))


def renaming_note(database: Database, key: str) -> Note[RenamingOriginal]:
    """Both paths as hexadecimal digits of their bytes."""
    return Note(database, key, _to_hex, _from_hex)


def _to_json(value: Any) -> str:
    return json.dumps(msgspec.to_builtins(value))


def _to_hex(renaming: RenamingOriginal) -> str:
    return json.dumps([os.fsencode(path).hex() for path in renaming])


def _from_hex(found: str) -> RenamingOriginal:
    old, new = (os.fsdecode(bytes.fromhex(path)) for path in json.loads(found))
    return RenamingOriginal(old, new)
