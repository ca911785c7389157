"""Single values that the ledger keeps under a name, each of one type."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from lensd.store.identity import Identity
from lensd.store.json_lines import decode, encode
from lensd.store.ledger.database import Database
from lensd.store.ledger.entry import text
from lensd.store.ledger.roots import RootIdentity
from lensd.store.probe import Proof

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class DegradedRoot:
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


class Restoring(NamedTuple):
    """A restore under way: the job of its row, and what the next start needs to know.

    `output`: the file that it replaces, None without one. `incoming`: what takes the name, None
    until that is complete; `method` says how it was made.
    """

    job_id: str
    purge: bool
    output: Identity | None
    incoming: Identity | None = None
    method: str = ""


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


def disk_backoff(database: Database) -> Note[str]:
    """The path and the fault of the disk that jobs wait for, as a text for people."""
    return Note(database, "held", text, str)


def degraded(database: Database) -> Note[tuple[DegradedRoot, ...]]:
    """The watched folders that have a problem, as an array of objects."""
    return Note(database, "degraded", _degraded_to_text, _degraded_from_text)


def archive(database: Database) -> Note[ArchiveIdentity]:
    """Which archive was used last, as an array."""
    return Note(database, "archive", json.dumps, _archive_from_text)


def renaming_original(database: Database) -> Note[RenamingOriginal]:
    """An original that moves within the archive: both paths as hexadecimal digits."""
    return Note(database, "archive.renaming", _renaming_to_text, _renaming_from_text)


def prune_in_progress(database: Database) -> Note[PruneInProgress]:
    """The original that is being deleted, as an array."""
    return Note(database, "pruning", json.dumps, _prune_from_text)


def rebuilding(database: Database) -> Note[tuple[str, ...]]:
    """Watched folders with originals that a rebuild has still to hash, as hexadecimal digits."""
    return Note(database, "rebuilding", _paths_to_text, _paths_from_text)


def restoring(database: Database) -> Note[tuple[Restoring, ...]]:
    """The restores under way, as an array of arrays; more than one if a disk went away."""
    return Note(database, "restoring", json.dumps, _restoring_from_text)


def last_prune(database: Database) -> Note[float]:
    """The wall time of the last complete daily pass."""
    return Note(database, "pruned_at", repr, float)


def hashed_until(database: Database) -> Note[float]:
    """The wall time until which published files have the hashes of `jobs.data_hashes`."""
    return Note(database, "hashed_until", repr, float)


def filesystems(database: Database) -> Note[tuple[Proof, ...]]:
    """What the filesystems of the folders are proven to do, as an array of objects."""
    return Note(
        database,
        "filesystems",
        lambda proofs: encode(proofs).decode(),
        lambda found: decode(found.encode(), tuple[Proof, ...]),
    )


def _degraded_to_text(roots: tuple[DegradedRoot, ...]) -> str:
    return json.dumps([asdict(root) for root in roots])


def _degraded_from_text(found: str) -> tuple[DegradedRoot, ...]:
    return tuple(map(_degraded_from, json.loads(found)))


def _degraded_from(value: Any) -> DegradedRoot:
    match value:
        case {
            "watch": str(watch), "path": str(path), "reason": str(reason),
            "message": str(message), "since": int(since) | float(since),
        }:  # fmt: skip
            return DegradedRoot(watch, path, reason, message, float(since))
    raise ValueError(value)


def _archive_from_text(found: str) -> ArchiveIdentity:
    match json.loads(found):
        case [str(path), int(device), int(inode), str() | None as mount]:
            return ArchiveIdentity(path, device, inode, mount)
        case value:
            raise ValueError(value)


def _paths_to_text(paths: tuple[str, ...]) -> str:
    return json.dumps([os.fsencode(path).hex() for path in paths])


def _paths_from_text(found: str) -> tuple[str, ...]:
    return tuple(os.fsdecode(bytes.fromhex(path)) for path in json.loads(found))


def _renaming_to_text(renaming: RenamingOriginal) -> str:
    return _paths_to_text(renaming)


def _renaming_from_text(found: str) -> RenamingOriginal:
    old, new = _paths_from_text(found)
    return RenamingOriginal(old, new)


def _prune_from_text(found: str) -> PruneInProgress:
    match json.loads(found):
        case [str(job_id), [*paths]] if all(isinstance(path, str) for path in paths):
            return PruneInProgress(job_id, tuple(paths))
        case value:
            raise ValueError(value)


def _restoring_from_text(found: str) -> tuple[Restoring, ...]:
    return tuple(map(_restoring_from, json.loads(found)))


def _restoring_from(value: Any) -> Restoring:
    match value:
        case [str(job_id), bool(purge), list() | None as output, list() | None as incoming,
              str(method)]:  # fmt: skip
            return Restoring(job_id, purge, _identity(output), _identity(incoming), method)
    raise ValueError(value)


def _identity(found: list[Any] | None) -> Identity | None:
    return None if found is None else Identity(*map(int, found))
