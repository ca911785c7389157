"""Reads archived originals and published files again and compares them with the ledger.

Changes nothing, and works while the daemon runs: a fault is reported only after two looks at ledger
and file that agree.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from lensd.errors import FileError, StorageError
from lensd.jobs import reread
from lensd.jobs.reread import Reading
from lensd.store.archive import Archive
from lensd.store.identity import Identity
from lensd.store.ledger import JobState, Ledger, Outcome
from lensd.store.ledger.entry import Entry
from lensd.store.paths import VERSIONS

LOOK_AGAIN_SECONDS = 0.5
LOOKS = 5
WITH_ORIGINAL = (
    Outcome.COMPRESSED,
    Outcome.REPLACED,
    Outcome.RESTORED,
)  # outcomes of rows that may have one

State = Literal[
    "ok", "damaged", "missing", "unreadable", "changed", "gone", "unreachable", "busy", "pruned",
    "unproven",
]  # fmt: skip
# changed, gone: another program or a person did that to the output, which is no fault. busy: a job
# may change the file at any moment, so that nothing can be said now. unproven: a rebuilt row.
FAULTS = ("damaged", "missing", "unreadable", "unreachable")

Key = tuple[str, str]  # root, path


class Finding(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file that was verified."""

    kind: Literal["original", "output"]
    state: Annotated[State, Meta(description="explained in docs/operations.md")]
    path: Annotated[str, Meta(description="where it is; empty: nowhere, it was pruned")]
    of: Annotated[str, Meta(min_length=1, description="its name in the watched folder")]
    watch: Annotated[str, Meta(min_length=1)]
    sha256: Annotated[
        Annotated[str, Meta(pattern="^[0-9a-f]{64}$")] | None,
        Meta(description="what it should be; null: not known"),
    ] = None
    bytes: Annotated[int, Meta(ge=0, description="that were read")] = 0
    message: Annotated[
        Annotated[str, Meta(min_length=1)] | None, Meta(description="cause and remedy")
    ] = None

    @property
    def is_fault(self) -> bool:
        return self.state in FAULTS


class Verifier:
    """Reads the ledger, which may be open for reading only."""

    def __init__(self, ledger: Ledger, archive: Archive) -> None:
        self._ledger = ledger
        self._archive = archive
        self._seen: set[str] = set()

    def files(self) -> dict[Key, int]:
        """Every path that has an original or an output, in order, and the bytes to read for it.

        Raises StorageError if the archive is not mounted.
        """
        if not os.path.isdir(self._archive.root):
            raise StorageError(
                f"the archive {self._archive.root} is missing: mount its disk or correct "
                "archive.path"
            )
        sizes: dict[Key, int] = {}
        for entry in self._ledger.files.with_outcome(*WITH_ORIGINAL):
            key = entry.root, entry.path
            sizes[key] = sizes.get(key, 0) + _bytes(entry)
        return dict(sorted(sizes.items()))

    def check(self, key: Key) -> list[Finding]:
        """Verify the originals and the output of one path."""
        before: tuple[list[Entry], list[Finding]] | None = None
        for _ in range(LOOKS):
            rows = self._ledger.files.history(*key)
            found = list(self._judge(rows))
            if not any(f.is_fault for f in found) or before == (rows, found):
                break
            before = rows, found
            time.sleep(LOOK_AGAIN_SECONDS)
        return found

    def check_unknown_versions(self, wanted: Callable[[str], bool]) -> Iterator[Finding]:
        """Verify older originals that no row names (a ledger was lost) by the sha256 in their path.

        `wanted` gets `<watch name>/<relative path>`. Call it after every `check`.
        """
        for path, listed in self._archive.originals.listed(VERSIONS):
            sha256, _, inside = listed.partition("/")
            if path not in self._seen and inside and wanted(inside):
                yield self._compare(path, path, inside.partition("/")[0], sha256)

    def _judge(self, rows: Sequence[Entry]) -> Iterator[Finding]:
        restoring = {r.job_id for r in self._ledger.state.restoring.get() or ()}
        busy = any(r.state != JobState.DONE or r.job_id in restoring for r in rows)
        for entry in _originals(rows):
            yield _mark_busy(self._check_original(entry, rows), busy=busy)
        current = next((r for r in reversed(rows) if r.outcome == Outcome.COMPRESSED), None)
        if current is not None:
            yield _mark_busy(self._check_output(current), busy=busy)

    def _check_original(self, entry: Entry, rows: Sequence[Entry]) -> Finding:
        sha256 = entry.sha256_in or ""
        if entry.archive_path is None:
            return Finding(
                "original", "pruned", "", entry.full_path, entry.watch, sha256, 0, entry.message
            )
        deleted = self._ledger.state.prune_in_progress.get()
        if deleted is not None and deleted.job_id == entry.job_id:
            return Finding(
                "original", "pruned", "", entry.full_path, entry.watch, sha256, 0,
                "archive.keep_days: its deletion is under way, or a crash interrupted it",
            )  # fmt: skip
        paths = reread.archive_paths(self._archive, entry)
        if not paths:
            message = (
                f"it is outside of the archive {self._archive.root}; if archive.path was changed, "
                "set it back or move the originals"
            )
            return Finding(
                "original", "unreachable", entry.archive_path, entry.full_path, entry.watch, sha256,
                0, message,
            )  # fmt: skip
        newest = next(r for r in reversed(rows) if r.archive_path == entry.archive_path)
        if newest.sha256_in != sha256:
            paths.reverse()  # a newer original has its path
        expected = self._compare(paths[0], entry.full_path, entry.watch, sha256)
        if expected.state == "ok":
            return expected
        others = (self._compare(p, entry.full_path, entry.watch, sha256) for p in paths[1:])
        return next((f for f in others if f.state == "ok"), expected)

    def _check_output(self, entry: Entry) -> Finding:
        path = entry.full_path
        if not os.path.isdir(entry.root):
            return Finding(
                "output", "unreachable", path, path, entry.watch, entry.sha256_out, 0,
                f"the watched folder {entry.root} is missing: mount its disk",
            )  # fmt: skip
        try:
            reading = reread.published(entry)
        except FileNotFoundError:
            return Finding("output", "gone", path, path, entry.watch, entry.sha256_out)
        except (FileError, OSError) as error:
            return Finding(
                "output", "unreadable", path, path, entry.watch, entry.sha256_out, 0, str(error)
            )
        is_another = reading.original not in (None, entry.sha256_in) and bool(
            self._ledger.originals.find(reading.original or "")
        )
        state, message = _state_of_output(entry, reading, is_another=is_another)
        return Finding(
            "output", state, path, path, entry.watch, entry.sha256_out,
            reading.identity.size, message,
        )  # fmt: skip

    def _compare(self, path: str, of: str, watch: str, sha256: str) -> Finding:
        self._seen.add(path)
        size, message = 0, None
        state: State = "ok"
        try:
            reading = reread.original(self._archive, path)
        except FileNotFoundError:
            state, message = "missing", "the archive does not have it: restore it from a backup"
        except (FileError, OSError) as error:
            state, message = "unreadable", str(error)
        else:
            size = reading.identity.size
            if reading.sha256 != sha256:
                state, message = (
                    "damaged",
                    "its bytes are not those that were archived: restore it from a backup",
                )
        return Finding("original", state, path, of, watch, sha256, size, message)


def _bytes(entry: Entry) -> int:
    """Of the original and the output that a row still has."""
    original = entry.bytes_in if entry.archive_path else None
    output = entry.bytes_out if entry.outcome == Outcome.COMPRESSED else None
    return (original or 0) + (output or 0)


def _originals(rows: Sequence[Entry]) -> Iterator[Entry]:
    """For each original of a path the last row that says where it is; none if it was moved back."""
    last = {r.sha256_in: r for r in rows if r.outcome in WITH_ORIGINAL and r.state == JobState.DONE}
    for entry in last.values():
        if entry.archive_path is not None or entry.outcome == Outcome.COMPRESSED:
            yield entry


def _state_of_output(
    entry: Entry, reading: Reading, *, is_another: bool
) -> tuple[State, str | None]:
    """`is_another`: its marks name another original that the archive has."""
    if reading.sha256 == entry.sha256_out:
        return "ok", None
    if entry.sha256_out is None and reading.original == entry.sha256_in:
        return "unproven", _UNPROVEN
    if not is_another and entry.staged is not None and _untouched(entry.staged, reading.identity):
        return "damaged", _DAMAGED
    return "changed", "another program modified or replaced it; lensd leaves it alone"


_DAMAGED = (
    "its bytes changed although no program wrote to it: `lensd restore` it, and check the disk "
    "(`dmesg`, `smartctl`)"
)


# A row that `rebuild` wrote: the hash of what was published was lost with the ledger. The hash of
# what lies there now is not recorded: `restore` would then take an edited output for lensd's own.
_UNPROVEN = (
    "it is complete, can be read, and its marks name the archived original; the rebuilt ledger "
    "does not know its sha256, so that `prune` keeps the original. `lensd restore` and then `lensd "
    "once --redo` make it again"
)


def _untouched(known: Identity, now: Identity) -> bool:
    """Whether size, date and inode are as they were when it was published."""
    return (known.size, known.mtime_ns, known.inode) == (now.size, now.mtime_ns, now.inode)


def _mark_busy(found: Finding, *, busy: bool) -> Finding:
    if not (busy and found.is_fault):
        return found
    return Finding(
        found.kind, "busy", found.path, found.of, found.watch, found.sha256, found.bytes,
        "a job for this file is queued or running; verify it again later",
    )  # fmt: skip
