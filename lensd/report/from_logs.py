"""Reads a report's history from JSON logs, without a ledger.

The logs may be rotated, gzipped or on stdin, in any order, and contain lines of other programs.
Lines of other programs and incomplete lines are counted; they never stop the report. Lines are
processed in the order of their timestamps.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import gzip
import re
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, NamedTuple

import msgspec

from lensd.errors import Outcome, StorageError
from lensd.report.documents import FromLogs
from lensd.report.history import History
from lensd.report.record import Drawn, Measures, Record, Word
from lensd.report.records import InMemory

STDIN = "-"
_GZIP = b"\x1f\x8b"
_EVENTS = (
    b"compressed", b"analyzed", b"kept", b"skipped", b"failed", b"quarantined",
    b"restored", b"pruned", b"moved",
)  # fmt: skip
# Most lines are not needed, and a search takes a tenth of the time of parsing. JSON escapes quotes,
# so that no message or path can match.
_WANTED = re.compile(rb'"event": ?"file\.(?:' + b"|".join(_EVENTS) + rb')"')
_ANY = re.compile(rb'"event": ?"[a-z.]+"')
# Outcomes that a later line gives to a compressed file. The same line again changes nothing.
_LATER = (Outcome.REPLACED, Outcome.RESTORED, Outcome.SUPERSEDED)

# Times without a time zone cannot be compared.
Moment = Annotated[dt.datetime, msgspec.Meta(tz=True)]

_YEARS = range(1971, 9000)  # in any time zone

UNKNOWN = [
    "events before the first line",
    "changes that other programs made to files and originals",
    "files that were in a folder when lensd first saw it",
]


class _Head(msgspec.Struct, kw_only=True, gc=False):
    """The fields of a line about a file, without the measures."""

    timestamp: Moment
    event: str
    path: Word
    watch: str = ""
    job_id: Word | None = None
    reason: Word | None = None
    message: str | None = None
    method: str | None = None  # how the original was restored
    sha256: str | None = None  # of the original that was restored or deleted


class _Line(NamedTuple):
    head: _Head
    measures: Measures


class _Counts(msgspec.Struct):
    """Lines by kind. `foreign`: not from lensd; `cut`: incomplete."""

    lines: int = 0
    foreign: int = 0
    cut: int = 0
    unreadable: list[str] = []


def history(paths: Sequence[str], *, drawn: bool = False) -> History:
    """All files of some logs; `-` is stdin. Raises StorageError for a log that cannot be opened."""
    counts = _Counts()
    kind = Drawn if drawn else Measures
    lines = [line for path in paths for line in _parse(_read(path, counts), kind, counts)]
    lines.sort(key=lambda line: line.head.timestamp)
    found = _Records()
    for line in lines:
        found.apply(line)
    source = FromLogs(logs=list(paths), repeated=found.repeated, **msgspec.structs.asdict(counts))
    return History(source=source, records=InMemory(found.by_job.values()), unknown=list(UNKNOWN))


def _read(path: str, counts: _Counts) -> Iterator[bytes]:
    """The lines of a log. A truncated gzip file is noted in `counts`."""
    try:
        with _open(path) as file:
            yield from file
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        counts.unreadable.append(f"{path}: {error}; the lines before that were read")
    except OSError as error:
        raise StorageError(
            f"cannot read the log {path}: {error.strerror or error}; check its name and permissions"
        ) from None


@contextlib.contextmanager
def _open(path: str) -> Iterator[Iterable[bytes]]:
    """Recognize gzip by its first bytes, because a rotated log may have any name."""
    number = sys.stdin.fileno() if path == STDIN else path
    with open(number, "rb", closefd=path != STDIN) as raw:
        if raw.peek(2)[:2] != _GZIP:
            yield raw
            return
        with gzip.open(raw) as unzipped:
            yield unzipped


def _parse(raws: Iterable[bytes], kind: type[Measures], counts: _Counts) -> Iterator[_Line]:
    head, measures = msgspec.json.Decoder(_Head), msgspec.json.Decoder(kind)
    for raw in raws:
        counts.lines += 1
        if _WANTED.search(raw) is None:
            _count_other(raw.strip(), counts)
            continue
        text = raw[raw.find(b"{") :]  # after a prefix by journalctl or a container
        try:
            line = _Line(head.decode(text), measures.decode(text))
        except ValueError:  # not the fields of a line, or not UTF-8
            counts.cut += 1
            continue
        if line.head.timestamp.year in _YEARS:
            yield line
        else:
            counts.foreign += 1


def _count_other(raw: bytes, counts: _Counts) -> None:
    if not raw:
        counts.lines -= 1
    elif _ANY.search(raw) is None:
        counts.foreign += 1
    elif not raw.endswith(b"}"):
        counts.cut += 1


class _Records:
    """One record per job, in the state that the lines so far gave it."""

    def __init__(self) -> None:
        self.by_job: dict[object, Record] = {}  # by path and time, if a line names no job
        self.repeated = 0
        self._current: dict[str, Record] = {}  # by path

    def apply(self, line: _Line) -> None:
        """Apply the next line in the order of time."""
        outcome = line.head.event.removeprefix("file.")
        if outcome == "moved":
            self._move(line.head)
        elif outcome == "restored":
            self._restore(line.head)
        elif outcome == "pruned":
            self._forget_original(line.head)
        else:
            self._add(line, outcome)

    def _add(self, line: _Line, outcome: str) -> None:
        head = line.head
        key = head.job_id or (head.path, head.timestamp)
        known = self.by_job.get(key)
        if known is not None and known.outcome in (outcome, *_LATER):
            self.repeated += 1
            return
        record = self.by_job[key] = _record(line, outcome)
        older = self._current.get(head.path)
        if older is not None and older.is_output and outcome != Outcome.COMPRESSED:
            return  # the job changed nothing: the older output is still there
        if older is not None:
            older.outcome = _outcome_of_older(older.outcome)
        self._current[head.path] = record

    def _move(self, head: _Head) -> None:
        record = self.by_job.get(head.job_id)
        if record is None:
            return
        if self._current.get(record.path) is record:
            del self._current[record.path]
        record.path = head.path
        self._current[head.path] = record

    def _restore(self, head: _Head) -> None:
        record = self._current.get(head.path)
        if record is None or not record.is_output:
            return
        record.outcome = Outcome.RESTORED
        if head.method == "move":
            record.measures.archive_path = None

    def _forget_original(self, head: _Head) -> None:
        record = self.by_job.get(head.job_id)
        if record is not None:
            record.measures.archive_path = None


def _record(line: _Line, outcome: str) -> Record:
    head = line.head
    return Record(
        path=head.path,
        watch=head.watch,
        job_id=head.job_id,
        outcome=outcome,
        when=head.timestamp.timestamp(),
        measures=line.measures,
        reason=head.reason,
        message=head.message,
    )


def _outcome_of_older(outcome: str) -> str:
    """The outcome of an older record after a newer job of the same path."""
    return (
        Outcome.REPLACED
        if outcome in (Outcome.COMPRESSED, Outcome.REPLACED)
        else Outcome.SUPERSEDED
    )
