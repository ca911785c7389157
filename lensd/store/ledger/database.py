"""The connection to the ledger's database. Each commit is durable."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

from lensd.errors import StorageError
from lensd.store.ledger import schema
from lensd.store.locks import holder

LEDGER = "ledger.sqlite3"
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_SUFFIXES = ("", "-journal", "-wal", "-shm")  # of the files of one database


def exists(folder: str) -> bool:
    """Whether a state folder has a ledger. Raises StorageError where that cannot be seen."""
    try:
        os.stat(os.path.join(folder, LEDGER))
    except (FileNotFoundError, NotADirectoryError):
        return False
    except PermissionError:
        raise StorageError(_not_allowed(folder), folder) from None
    except OSError as error:
        raise StorageError(
            f"whether there is a ledger in {folder} cannot be seen: {error.strerror}; check that "
            "disk",
            folder,
        ) from None
    return True


class Database:
    """The connection to the database in a state folder, shared by all threads.

    A damaged database is moved aside and an empty one made: `damaged` is then the path of the
    damaged one, else None.
    """

    def __init__(self, folder: str, *, readonly: bool = False) -> None:
        self._lock = threading.RLock()
        self._folder = folder
        path = os.path.join(folder, LEDGER)
        if readonly and not exists(folder):
            raise StorageError(
                f"there is no ledger in {folder} yet: lensd has not run with this configuration; "
                "`lensd once` or `lensd run` creates it"
            )
        if readonly and not os.access(path, os.R_OK, effective_ids=True):
            raise StorageError(_not_allowed(folder), folder)
        self.damaged: str | None = None
        self.is_unchanging = False
        try:
            if not readonly and _is_damaged(path):
                self.damaged = _set_aside(path)
            self.connection = self._open(path, readonly=readonly)
            # O_PATH: the end of another descriptor would drop SQLite's locks.
            self._opened_fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except (sqlite3.Error, OSError) as error:
            raise StorageError(_describe(path, error, readonly=readonly)) from None

    def _open(self, path: str, *, readonly: bool) -> sqlite3.Connection:
        """SQLite wants to write files beside a ledger that no process uses, also to read it."""
        try:
            return _open(path, readonly=readonly, unchanging=False)
        except sqlite3.OperationalError:
            if not readonly or os.access(self._folder, os.W_OK, effective_ids=True):
                raise
            if any(_has_content(path + suffix) for suffix in _SUFFIXES[1:]):
                raise  # of a killed lensd: what they hold is missing in the database
            if holder(self._folder) is not None:
                raise
        self.is_unchanging = True
        return _open(path, readonly=True, unchanging=True)

    def close(self) -> None:
        self.connection.close()
        fd, self._opened_fd = self._opened_fd, -1
        if fd >= 0:  # a second call does nothing
            os.close(fd)

    def require_in_place(self) -> None:
        """Raises StorageError when the open database was deleted, moved or replaced."""
        path = os.path.join(self._folder, LEDGER)
        try:
            if os.path.samestat(os.stat(path), os.fstat(self._opened_fd)):
                return
        except FileNotFoundError:
            pass
        except OSError:
            return  # its disk does not answer, which proves nothing
        raise StorageError(
            f"the ledger {path} was deleted or replaced while lensd ran, so that its records would "
            "be lost: lensd ends. Start it again (systemd does): it uses the ledger that is there, "
            "or rebuilds a missing one from the marks of the outputs and from the archive",
            path,
        )

    @contextmanager
    def together(self) -> Iterator[None]:
        """One commit for all changes within; see `Ledger.together`."""
        with self._lock, self._translate_errors("written"), self.connection:
            self.connection.execute("BEGIN IMMEDIATE")
            yield

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Reads of one moment; see `Ledger.snapshot`."""
        with self._lock, self._translate_errors("read"), self.connection:
            self.connection.execute("BEGIN")
            yield

    @contextmanager
    def change(self) -> Iterator[sqlite3.Connection]:
        """The connection for one change, durable at the end; within `together`, with that."""
        with self._lock, self._translate_errors("written"):
            if self.connection.in_transaction:
                yield self.connection
                return
            with self.connection:
                yield self.connection

    def read(self, query: str, *values: Any) -> list[sqlite3.Row]:
        with self._lock, self._translate_errors("read"):
            return self.connection.execute(query, values).fetchall()

    @contextmanager
    def _translate_errors(self, done: str) -> Iterator[None]:
        try:
            yield
        except (sqlite3.IntegrityError, sqlite3.ProgrammingError):
            raise  # a bug of lensd
        except sqlite3.DatabaseError as error:
            if self.is_unchanging and holder(self._folder) is not None:
                raise StorageError(
                    f"a lensd that started meanwhile changes the ledger in {self._folder}: run the "
                    "command again",
                    self._folder,
                ) from None
            raise StorageError(
                f"the ledger in {self._folder} cannot be {done}: {error}. Free space on its "
                "disk, or check that disk",
                self._folder,
            ) from None


def _not_allowed(folder: str) -> str:
    return (
        f"you may not read the ledger in {folder}: use sudo, or run the command as the user of "
        "the daemon or as a member of the group of that folder"
    )


def _describe(path: str, error: sqlite3.Error | OSError, *, readonly: bool) -> str:
    """Why a ledger cannot be opened, and the remedy."""
    if readonly and isinstance(error, sqlite3.Error) and _code(error) == sqlite3.SQLITE_READONLY:
        return (
            f"the ledger {path} is incomplete: lensd was killed while it created or converted it; "
            "the next `lensd run` or `lensd once` completes it"
        )
    return (
        f"the ledger {path} cannot be opened: {error}. Check the disk and the rights; the next "
        "`lensd run` or `lensd once` moves a damaged ledger aside and rebuilds it"
    )


def _open(path: str, *, readonly: bool, unchanging: bool) -> sqlite3.Connection:
    """A connection to a database of this version's schema."""
    db = _connect(uri(path, "ro" if readonly else "rwc", unchanging=unchanging))
    try:
        if not readonly:
            _make_durable(path, db)
            schema.prepare(db)
        _check_version(path, schema.version_of(db), readonly=readonly)
    except BaseException:
        db.close()
        raise
    return db


def _check_version(path: str, found: int, *, readonly: bool) -> None:
    if readonly and found == 0:
        raise StorageError(
            f"the ledger {path} is empty: lensd was stopped at its very first start; the next "
            "`lensd run` or `lensd once` creates it"
        )
    if readonly and 0 < found < schema.SCHEMA_VERSION:
        raise StorageError(
            f"the ledger {path} was written by an older lensd (schema {found}, this is "
            f"{schema.SCHEMA_VERSION}); the next `lensd run` or `lensd once` converts it"
        )
    if found not in (0, schema.SCHEMA_VERSION):
        raise StorageError(
            f"the ledger {path} was written by another version of lensd (schema {found}, this "
            f"is {schema.SCHEMA_VERSION}); upgrade lensd, or use another state folder"
        )


def uri(path: str, mode: str, *, unchanging: bool = False) -> str:
    """SQLite's name of a database file. `unchanging`: without locks, since no process writes."""
    return f"file:{quote(os.fsencode(path))}?mode={mode}{'&immutable=1' if unchanging else ''}"


def _connect(name: str) -> sqlite3.Connection:
    db = sqlite3.connect(name, uri=True, check_same_thread=False, timeout=30)
    db.row_factory = sqlite3.Row
    return db


def _make_durable(path: str, db: sqlite3.Connection) -> None:
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA cache_size = -1024")  # KiB: the daemon must stay small
    os.chmod(path, 0o640)


def _is_damaged(path: str) -> bool:
    """Whether two checks find damage and the disk reads all of the files without an error.

    SQLite also calls a page damaged that the disk could not read. Raises OSError, sqlite3.Error
    for a fault of the disk.
    """
    if _is_sound(path):
        return False
    for suffix in _SUFFIXES:
        if os.path.exists(path + suffix):
            with open(path + suffix, "rb") as file:
                while file.read(1 << 20):
                    pass
    return not _is_sound(path)


def _is_sound(path: str) -> bool:
    """False for a database that is provably damaged. Raises sqlite3.Error for other faults.

    What a kill leaves is sound: no file, an empty one, a rollback journal, a WAL.
    """
    if not _has_content(path) and _has_content(f"{path}-wal"):
        return False  # SQLite would delete the WAL, which is all that is left
    if not os.path.exists(path):
        return True
    try:
        try:
            return _passes_checks(path, "ro")  # a writer would delete a damaged WAL
        except sqlite3.OperationalError as error:
            if _code(error) != sqlite3.SQLITE_READONLY:
                raise
            return _passes_checks(path, "rw")  # a kill left a rollback journal: only a writer reads
    except sqlite3.DatabaseError as error:
        if _code(error) in _DAMAGED:
            return False
        raise


def _passes_checks(path: str, mode: str) -> bool:
    db = _connect(uri(path, mode))
    try:
        checks = [tuple(row) for row in db.execute("PRAGMA quick_check(1)")]
        return checks == [("ok",)] and schema.is_complete(db)
    finally:
        db.close()


def _code(error: sqlite3.Error) -> int:
    return error.sqlite_errorcode & 0xFF


def _has_content(path: str) -> bool:
    return os.path.exists(path) and os.path.getsize(path) > 0


def _set_aside(path: str) -> str:
    """Rename a damaged database and what SQLite keeps beside it, and return the new path.

    Overwrites nothing. The database is renamed first: without its WAL an older state of it may look
    sound, while a WAL without a database is moved aside by the next start.
    """
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    aside, number = f"{path}.damaged-{moment}", 1
    while any(os.path.lexists(aside + suffix) for suffix in _SUFFIXES):
        number += 1
        aside = f"{path}.damaged-{moment}-{number}"
    for suffix in _SUFFIXES:
        if os.path.lexists(path + suffix):
            os.rename(path + suffix, aside + suffix)
    folder_fd = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder_fd)
    finally:
        os.close(folder_fd)
    return aside
