"""The manifest: a row for each object of a collection, as JSON lines or as Parquet.

While a run lasts, its rows are in a journal beside the manifest: JSON lines, one after the other,
durable before the run goes on. A run that is killed leaves it, and the next run continues with it.
The last row of an object counts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import IO

import msgspec

from lensd.collection.rows import Head, Row
from lensd.errors import StorageError, UsageError
from lensd.store.fs import fsync_folder
from lensd.store.json_lines import encode

PARQUET = ".parquet"
_SUFFIXES = (PARQUET, ".jsonl", ".ndjson", ".json")
_JOURNAL = ".journal"


def require_kind(path: str) -> None:
    """Raises UsageError for the name of another kind of file, or if pyarrow is missing."""
    if not path.endswith(_SUFFIXES):
        raise UsageError(f"{path}: a manifest ends in .jsonl or .parquet")
    if path.endswith(PARQUET):
        try:
            import pyarrow as pa  # noqa: F401
        except ImportError:
            raise UsageError(
                "a manifest in Parquet needs pyarrow: `pip install pyarrow` in lensd's "
                "environment, or let its name end in .jsonl"
            ) from None


def journal_of(manifest: str) -> str:
    return manifest + _JOURNAL


def read(manifest: str) -> Iterator[Row]:
    """The rows of a run that was killed, with several of one object, else those of the manifest.

    Raises StorageError for a file that cannot be read, UsageError for one that is no manifest.
    """
    journal = journal_of(manifest)
    path = journal if os.path.exists(journal) else manifest
    if not os.path.exists(path):
        return
    with _reading(path):
        if path.endswith(PARQUET):
            from lensd.collection import parquet

            yield from map(_checked, parquet.read(path))
        else:
            with open(path, "rb") as file:
                yield from (row for _, _, row in _lines(file, may_be_cut=path == journal))


class Journal:
    """The journal of a run, which holds the rows of the manifest too."""

    def __init__(self, manifest: str, work: str) -> None:
        """`work`: a folder of this run alone, on the disk of the manifest."""
        self._manifest, self._work = manifest, work
        self._path = journal_of(manifest)
        if not os.path.exists(self._path):
            start = os.path.join(work, "journal")
            with _writing(start), open(start, "wb") as file:
                file.writelines(map(encode, read(manifest)))
                _sync(file)
            os.rename(start, self._path)
            _sync_names(self._path)
        self._file = open(self._path, "r+b")  # noqa: SIM115  until `close`

    def rows(self) -> Iterator[tuple[int, Row]]:
        """Each row with its offset. Removes a last line that a crash cut off. Raises UsageError."""
        end = 0
        with _reading(self._path):
            for start, after, row in _lines(self._file, may_be_cut=True):
                end = after
                yield start, row
        self._file.truncate(end)
        self._file.seek(end)

    def append(self, rows: Iterable[Row]) -> list[int]:
        """Make rows durable; returns the offset of each."""
        offsets = []
        with _writing(self._path):
            for row in rows:
                offsets.append(self._file.tell())
                self._file.write(encode(row))
            _sync(self._file)
        return offsets

    def complete(self, offsets: Iterable[int]) -> None:
        """Write the manifest of the rows at these offsets, and remove the journal."""
        new = os.path.join(self._work, f"manifest{PARQUET}")
        rows = (self._row_at(offset) for offset in offsets)
        with _writing(self._manifest):
            if self._manifest.endswith(PARQUET):
                from lensd.collection import parquet

                parquet.write(new, rows)
            else:
                with open(new, "wb") as file:
                    file.writelines(map(encode, rows))
            with open(new, "rb") as file:
                _sync(file)
            os.replace(new, self._manifest)
            _sync_names(self._manifest)
            os.unlink(self._path)

    def close(self) -> None:
        """Drop what a full disk did not take; `append` has raised the error."""
        with suppress(OSError):
            self._file.close()

    def _row_at(self, offset: int) -> Row:
        self._file.seek(offset)
        return _decode(self._file.readline())


@contextmanager
def _writing(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{path} cannot be written: {error.strerror}; then run the same command again", path
        ) from None


@contextmanager
def _reading(path: str) -> Iterator[None]:
    """Of a file that is not a manifest nothing may be lost: the run ends before it writes."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"cannot read the manifest {path}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        remedy = "name another file with --manifest"
        if path.endswith(_JOURNAL):
            remedy = "move it away, and the next run begins with the manifest beside it"
        raise UsageError(f"{path} is no manifest of lensd: {error}; {remedy}") from None


def _lines(file: IO[bytes], *, may_be_cut: bool) -> Iterator[tuple[int, int, Row]]:
    """Start, end and row of each line, without a last one that is cut off if that may be.

    Raises ValueError for a line that is no row, with its number.
    """
    start = 0
    for number, line in enumerate(file, 1):
        if may_be_cut and not line.endswith(b"\n"):
            return
        end = start + len(line)
        try:
            row = _decode(line)
        except (ValueError, RecursionError) as error:
            # without the position that a JSON error has: it calls each line the first one
            raise ValueError(f"line {number}: {getattr(error, 'msg', error)}") from None
        yield start, end, row
        start = end


def _decode(line: bytes) -> Row:
    row = json.loads(line)
    if not isinstance(row, dict):
        raise ValueError("a line is no JSON object")  # noqa: TRY004  as other faults of a line
    return _checked(row)


def _checked(row: Row) -> Row:
    """Raises ValueError unless it has the fields that each row has."""
    msgspec.json.encode(msgspec.convert(row, Head))  # texts have to be valid Unicode
    return row


def _sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_names(path: str) -> None:
    fd = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY | os.O_DIRECTORY)
    try:
        fsync_folder(fd)
    finally:
        os.close(fd)
