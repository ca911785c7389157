"""JSON logs alone -> a report's history: rotated, gzipped, by a pipe, with other lines between.

Whatever is no whole line of lensd's is counted and never fatal. Lines are taken by their times,
in whatever order the files are named.
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

from lensd.errors import StorageError
from lensd.report.documents import FromLogs
from lensd.report.record import Drawn, History, Measures, Record, Word

STDIN = "-"
_GZIP = b"\x1f\x8b"
_EVENTS = (
    b"compressed", b"analyzed", b"kept", b"skipped", b"failed", b"quarantined",
    b"restored", b"pruned", b"moved",
)  # fmt: skip
# Most lines are of no use here, and a search takes a tenth of the time that parsing takes. In a
# JSON text a quote has a backslash, so that no message or path can look like this.
_WANTED = re.compile(rb'"event": ?"file\.(?:' + b"|".join(_EVENTS) + rb')"')
_ANY = re.compile(rb'"event": ?"[a-z.]+"')
# What a later line may have made of an end; the same line again says nothing new.
_LATER = ("replaced", "restored", "superseded")

# Without a time zone two times cannot be compared.
Moment = Annotated[dt.datetime, msgspec.Meta(tz=True)]

_YEARS = range(1971, 9000)  # in any time zone

UNKNOWN = [
    "what came before the first line, or was rotated away",
    "what somebody else did to files and originals",
    "which files were left alone when lensd first saw their folder",
]


class _Head(msgspec.Struct, kw_only=True, gc=False):
    """What a line about a file has beside measures."""

    timestamp: Moment
    event: str
    path: Word
    watch: str = ""
    job_id: Word | None = None
    reason: Word | None = None
    message: str | None = None
    method: str | None = None  # how an original came back
    sha256: str | None = None  # of an original that came back or was deleted


class _Line(NamedTuple):
    head: _Head
    measures: Measures


class _Counts(msgspec.Struct):
    """What was found in the logs. `foreign`: no line of lensd's; `cut`: one that is not whole."""

    lines: int = 0
    foreign: int = 0
    cut: int = 0
    unreadable: list[str] = []


def history(paths: Sequence[str], *, drawn: bool = False) -> History:
    """All files of some logs; `-` is stdin. Raises StorageError for a log that cannot be opened."""
    counts = _Counts()
    kind = Drawn if drawn else Measures
    lines = [line for path in paths for line in _parsed(_read(path, counts), kind, counts)]
    lines.sort(key=lambda line: line.head.timestamp)
    fold = _Fold()
    for line in lines:
        fold.take(line)
    source = FromLogs(logs=list(paths), repeated=fold.repeated, **msgspec.structs.asdict(counts))
    return History(source=source, records=list(fold.records.values()), unknown=list(UNKNOWN))


def _read(path: str, counts: _Counts) -> Iterator[bytes]:
    """The lines of a log. One that breaks off (a gzip that is not whole) is noted in `counts`."""
    try:
        with _opened(path) as file:
            yield from file
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        counts.unreadable.append(f"{path}: {error}; what comes before was read")
    except OSError as error:
        raise StorageError(
            f"the log {path} cannot be read: {error.strerror or error}; check its name and rights"
        ) from None


@contextlib.contextmanager
def _opened(path: str) -> Iterator[Iterable[bytes]]:
    """By its first bytes: a rotated log may be gzipped under any name."""
    number = sys.stdin.fileno() if path == STDIN else path
    with open(number, "rb", closefd=path != STDIN) as raw:
        if raw.peek(2)[:2] != _GZIP:
            yield raw
            return
        with gzip.open(raw) as unzipped:
            yield unzipped


def _parsed(raws: Iterable[bytes], kind: type[Measures], counts: _Counts) -> Iterator[_Line]:
    head, measures = msgspec.json.Decoder(_Head), msgspec.json.Decoder(kind)
    for raw in raws:
        counts.lines += 1
        if _WANTED.search(raw) is None:
            _count_other(raw.strip(), counts)
            continue
        text = raw[raw.find(b"{") :]  # after what journalctl or a container puts before it
        try:
            line = _Line(head.decode(text), measures.decode(text))
        except ValueError:  # of msgspec, or of a text that is not UTF-8
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


class _Fold:
    """One record per job, as it stands after the last line."""

    def __init__(self) -> None:
        self.records: dict[object, Record] = {}  # by job, or by path and time where there is none
        self.repeated = 0
        self._newest: dict[str, Record] = {}  # by path

    def take(self, line: _Line) -> None:
        """The next line by time."""
        outcome = line.head.event.removeprefix("file.")
        if outcome == "moved":
            self._move(line.head)
        elif outcome == "restored":
            self._restore(line.head)
        elif outcome == "pruned":
            self._forget_original(line.head)
        else:
            self._end(line, outcome)

    def _end(self, line: _Line, outcome: str) -> None:
        head = line.head
        key = head.job_id or (head.path, head.timestamp)
        known = self.records.get(key)
        if known is not None and known.outcome in (outcome, *_LATER):
            self.repeated += 1
            return
        record = self.records[key] = _record(line, outcome)
        older = self._newest.get(head.path)
        if older is not None and older.stands and outcome != "compressed":
            return  # a try that changed nothing: the output is still there
        if older is not None:
            older.outcome = _made_older(older.outcome)
        self._newest[head.path] = record

    def _move(self, head: _Head) -> None:
        record = self.records.get(head.job_id)
        if record is None:
            return
        if self._newest.get(record.path) is record:
            del self._newest[record.path]
        record.path = head.path
        self._newest[head.path] = record

    def _restore(self, head: _Head) -> None:
        record = self._newest.get(head.path)
        if record is None or not record.stands:
            return
        record.outcome = "restored"
        if head.method == "move":
            record.measures.archive_path = None

    def _forget_original(self, head: _Head) -> None:
        record = self.records.get(head.job_id)
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


def _made_older(outcome: str) -> str:
    """What a later end of the same path makes of an earlier one."""
    if outcome == "compressed":
        return "replaced"
    return "superseded" if outcome in ("failed", "quarantined") else outcome
