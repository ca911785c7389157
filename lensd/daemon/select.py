"""Which files `lensd once` takes up: every file that is there, or those of the given paths."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from lensd.config.model import Config, Watch
from lensd.errors import UsageError
from lensd.store.identity import Identity
from lensd.store.ledger import Ledger, Outcome
from lensd.store.ledger.entry import Entry
from lensd.store.ledger.originals import WANTED_AGAIN
from lensd.store.paths import is_below, resolve_path
from lensd.watcher.own_output import read_marks
from lensd.watcher.scan import scan

# Outcomes of files that `once` takes up again, and those that need `--redo`.
RELEASED = (Outcome.BASELINE, Outcome.FAILED, Outcome.QUARANTINED)
RESULTS = (Outcome.RESTORED, Outcome.KEPT, Outcome.ANALYZED)
REDONE = (*RESULTS, Outcome.SKIPPED)


@dataclass(frozen=True, slots=True)
class File:
    """A file for the intake."""

    watch: Watch
    path: str
    identity: Identity


@dataclass(slots=True)
class Choice:
    """files: for the intake; released: rows of earlier outcomes; again: outputs to replace.

    resumed: jobs of an earlier run, whatever the paths are: `once` completes them too; copies: of
    outputs, which have no original of their own to begin with again.
    """

    files: list[File] = field(default_factory=list)
    released: list[Entry] = field(default_factory=list)
    again: list[Entry] = field(default_factory=list)
    resumed: list[Entry] = field(default_factory=list)
    copies: list[Entry] = field(default_factory=list)


def choose(config: Config, ledger: Ledger | None, paths: Sequence[str], *, redo: bool) -> Choice:
    """Raises UsageError for a path that does not exist, or is in no watched folder."""
    roots = {watch.root for watch in config.watch}
    resumed = [e for e in ledger.jobs.unfinished() if e.root in roots] if ledger else []
    choice = Choice(resumed=resumed)
    queued = {(e.root, e.path) for e in resumed}
    outcomes = RELEASED + REDONE if redo else RELEASED
    for file in _find_files(config, resolve_paths(config, paths)):
        key = file.watch.root, file.path, file.identity
        entry = ledger.files.knows(*key) if ledger else None
        if entry is not None and key[:2] in queued:
            continue
        output = _find_output(ledger, file) if ledger and redo else None
        if output is not None and output.archive_path is not None:
            choice.again.append(output)
        elif entry is None:
            choice.files.append(file)
        elif entry.outcome in outcomes:
            choice.released.append(entry)
            choice.files.append(file)
        elif redo and entry.outcome is Outcome.OUTPUT:
            choice.copies.append(entry)
    return choice


def _find_output(ledger: Ledger, file: File) -> Entry | None:
    """The row whose output a file is, as it is now.

    A program may have given the output another date, or copied it back: then its marks decide. The
    job compares its bytes.
    """
    at = file.watch.root, file.path
    output = ledger.files.output(*at, file.identity)
    if output is not None:
        return output
    current = ledger.files.current(*at)
    marked = None if current is None else read_marks(*at)
    if current is None or marked is None or marked.sha256 != current.sha256_in:
        return None
    return replace(current, staged=marked.identity)


def queue(choice: Choice, ledger: Ledger) -> None:
    """Queue the outputs to replace, and forget the earlier outcomes of the released files."""
    ledger.jobs.release(e for e in choice.released if e.outcome in RELEASED)
    wanted = (e for e in choice.released if e.outcome not in RELEASED)
    ledger.jobs.release(wanted, reason=WANTED_AGAIN)
    for entry in choice.again:
        ledger.jobs.redo(secrets.token_hex(8), entry)


def _find_files(config: Config, within: Sequence[str]) -> Iterator[File]:
    for watch in config.watch:
        for path, identity in scan(watch.root, recursive=watch.recursive, selects=watch.selects):
            full = os.path.join(watch.root, path)
            if not within or any(is_below(full, p) for p in within):
                yield File(watch, path, identity)


def resolve_paths(config: Config, paths: Sequence[str]) -> list[str]:
    """The paths as the ledger writes them. Raises UsageError as `choose` does."""
    found = []
    for path in paths:
        resolved = resolve_path(path)
        if not os.path.lexists(resolved):
            raise UsageError(f"{path} does not exist; give a path in a watched folder")
        if watch_of(config, resolved) is None:
            roots = ", ".join(w.path for w in config.watch)
            raise UsageError(
                f"{path} is in no watched folder ({roots}); add its folder under `watch`, or use "
                "`lensd compress` for a single file"
            )
        found.append(resolved)
    return found


def watch_of(config: Config, path: str) -> Watch | None:
    """The watched folder that an absolute, resolved path is in."""
    return next((w for w in config.watch if is_below(path, w.root)), None)
