"""The page of one file: its numbers, its versions, and its lines of the log."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Collection, Iterator
from typing import NamedTuple

from lensd.errors import Outcome
from lensd.logs.sinks import KEPT_FILES
from lensd.report.from_ledger import record_of
from lensd.report.page.packing import to_json
from lensd.report.record import Drawn
from lensd.store.ledger import JobState, Ledger
from lensd.store.ledger.entry import Entry
from lensd.text import visible
from lensd.web.shown import Shortener, shown_path

LONGEST_LOG = 200  # lines
SOON_SECONDS = 60.0  # from the release of a file until it is a job
AGAIN = (Outcome.RESTORED, Outcome.KEPT, Outcome.SKIPPED, Outcome.ANALYZED)


class Action(NamedTuple):
    """A button. `text`: what it does, for the question before it."""

    verb: str
    label: str
    text: str


class Version(NamedTuple):
    """A row of the ledger for the same path."""

    when: float
    outcome: str
    message: str


class FilePage(NamedTuple):
    """The values of the template `file.html`."""

    job_id: str
    path: str
    outcome: str
    is_done: bool
    actions: list[Action]
    versions: list[Version]
    log: list[str]


def make_page(ledger: Ledger, entry: Entry, shortener: Shortener, log: str | None) -> FilePage:
    """`log`: the path of the log file, None without one."""
    history = ledger.files.history(entry.root, entry.path)
    return FilePage(
        job_id=entry.job_id,
        path=shown_path(entry),
        outcome=_describe(entry),
        is_done=_is_done(entry),
        actions=list(_actions(entry, ledger.gone.known())),
        versions=[_version(e, shortener) for e in reversed(history)],
        log=[shortener.shorten(line) for line in _lines(entry, history, log)],
    )


def data_of(entry: Entry) -> bytes:
    """The numbers of a file as JSON, in the form that the report's scripts read."""
    return to_json([record_of(entry, Drawn)])


def _is_done(entry: Entry) -> bool:
    """False while the state may soon be another one: for a job, and for a file that is released."""
    is_released = entry.outcome == Outcome.SUPERSEDED and time.time() - entry.updated < SOON_SECONDS
    return entry.state == JobState.DONE and not is_released


def _describe(entry: Entry) -> str:
    return str(entry.outcome if entry.state == JobState.DONE else entry.state)


def _actions(entry: Entry, gone: Collection[tuple[str, str]]) -> Iterator[Action]:
    """What may be done with a file in its state. `gone`: what people deleted, by job."""
    has_original = entry.archive_path is not None and (entry.job_id, "original") not in gone
    if entry.state != JobState.DONE:
        return
    if entry.outcome == Outcome.COMPRESSED and has_original:
        yield Action(
            "restore",
            "Restore the original",
            "The original takes the place of the compressed file, bit for bit. lensd does not "
            "compress it again by itself.",
        )
        yield Action(
            "redo",
            "Compress again",
            "lensd compresses the archived original again, with the present settings, and "
            "replaces the compressed file.",
        )
    elif entry.outcome in AGAIN:
        yield Action("redo", "Compress again", "lensd processes the file again.")
    elif entry.outcome == Outcome.BASELINE:
        yield Action("redo", "Compress", "lensd compresses the file and archives the original.")
    elif entry.outcome in (Outcome.FAILED, Outcome.QUARANTINED):
        yield Action("retry", "Try again", "lensd processes the file again.")


def _version(entry: Entry, shortener: Shortener) -> Version:
    return Version(
        entry.published or entry.updated,
        _describe(entry) if entry.reason is None else f"{_describe(entry)}, {entry.reason}",
        shortener.shorten(entry.message or ""),
    )


def _lines(entry: Entry, history: list[Entry], log: str | None) -> list[str]:
    """Lines of the log file about these jobs; without one the line that the ledger keeps."""
    jobs = [e.job_id.encode() for e in history]
    found = [] if log is None else list(_search(log, jobs))
    if not found and entry.line is not None:
        found = [json.dumps({"event": f"file.{entry.outcome}", **entry.line})]
    return [visible(line) for line in found[-LONGEST_LOG:]]


def _search(log: str, jobs: list[bytes]) -> Iterator[str]:
    """Lines of the log and of its rotated files, the oldest first."""
    names = [*(f"{log}.{number}" for number in range(KEPT_FILES, 0, -1)), log]
    for name in names:
        with contextlib.suppress(OSError), open(os.fspath(name), "rb") as file:
            for line in file:
                if any(job in line for job in jobs):
                    yield line.decode("utf-8", "replace").rstrip("\n")
