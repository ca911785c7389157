"""The intake: hints and scans in, jobs out. Holds what is seen but not settled yet."""

from __future__ import annotations

import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Unpack

from lensd.errors import FileError, Outcome, Skipped
from lensd.logs.events import FileDetected, FileSettled, file_end
from lensd.store.archive import Archive
from lensd.store.fs import is_temporary, open_folder
from lensd.store.identity import Identity
from lensd.store.ledger import Columns, Ledger
from lensd.store.paths import is_below
from lensd.watcher import completeness
from lensd.watcher.completeness import Kind
from lensd.watcher.folder import Folder, Log
from lensd.watcher.move_tracker import Found, MoveTracker
from lensd.watcher.scan import in_batches, scan
from lensd.watcher.settle import Candidate, Key, Settler
from lensd.watcher.steady_clock import SteadyClock

# A look through a folder takes up no more than this at once: 100,000 candidates have 75 MB.
MOST_CANDIDATES = 20_000
# After this long `step` looks at no further file: signals are to be heard in between.
STEP_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Arrival:
    """A new job, and when the intake first saw its file (monotonic seconds)."""

    job_id: str
    first_seen: float


class Intake:
    """Only the main loop calls this; times are monotonic seconds that it passes in.

    Inside, times are steady ones: whatever the clock does, a file has its quiet seconds.
    """

    def __init__(
        self,
        folders: Sequence[Folder],
        settler: Settler,
        ledger: Ledger,
        archive: Archive,
        move_tracker: MoveTracker,
        log: Log,
        arrivals: SimpleQueue[Arrival],
        progress: Callable[[], None] = lambda: None,
        most: int = MOST_CANDIDATES,
    ) -> None:
        """`arrivals` gets a message for each new job, before the ledger has the job.

        `progress` is called again and again during a long scan. A scan adds `most` candidates at
        most.
        """
        self._folders = {f.root: f for f in folders}
        self._settler = settler
        self._ledger = ledger
        self._archive = archive
        self._log = log
        self._arrivals = arrivals
        self._progress = progress
        self._most = most
        self._move_tracker = move_tracker
        self._clock = SteadyClock()
        self.tells_unfinished = True  # of what has not been whole for long; else `reject_rest` does
        self._excluded: frozenset[str] = frozenset()
        ledger.state.clear_waiting()

    def next_due(self) -> float | None:
        """When `step` has something to do."""
        due = self._settler.next_due()
        return None if due is None else self._clock.reading(due)

    def follow(self) -> None:
        """Let rows follow what was moved while nobody looked."""
        for entry, key in list(self._move_tracker.plan()):
            self._move_tracker.move(entry, key)

    @property
    def pending(self) -> int:
        """Paths that are not settled yet."""
        return len(self._settler)

    @property
    def hopeful(self) -> bool:
        """Whether a pending path may settle by time alone, so that it pays to wait for it."""
        return self._settler.hopeful()

    def exclude(self, roots: frozenset[str]) -> None:
        """What lies under these roots is not what is meant: look at nothing there."""
        self._excluded = roots
        for key in list(self._settler.keys()):
            if key.root in roots:
                self._drop(key)

    def hint(self, path: str, now: float) -> None:
        """An event named an absolute path; or a file has to be looked at again."""
        now = self._clock.at(now)
        folder = next((f for r, f in self._folders.items() if is_below(path, r)), None)
        if folder is not None and folder.root not in self._excluded:
            relative = os.path.relpath(path, folder.root)
            if self._wanted(folder, relative):
                self._settler.notice(Key(folder.root, relative), now)
            else:
                self._partner_of(folder, relative, now)

    def baseline(self, folder: Folder) -> tuple[int, int] | None:
        """Record a folder that the ledger sees for the first time: (files, bytes) left alone."""
        if self._ledger.roots.knows(folder.root):
            return None
        files = size = 0
        for unknown in self._unknown_to(folder):
            left = unknown if folder.existing == "leave" else []
            self._ledger.files.record_baseline(folder.root, folder.name, left)
            files += len(left)
            size += sum(identity.size for _, identity in left)
        self._ledger.roots.add(folder.root, folder.name)
        return files, size

    def _unknown_to(self, folder: Folder) -> Iterator[list[tuple[str, Identity]]]:
        """Files, a few hundred at a time, that have no row and are not known from elsewhere."""
        lost = self._move_tracker.misses_outputs()
        look = self._move_tracker.look_at_unknown
        for batch in in_batches(self._scan(folder)):
            self._progress()
            yield [
                (path, identity)
                for path, identity in self._ledger.files.unknown(folder.root, batch)
                if look(Key(folder.root, path), identity, lost=lost) is Found.NEW
            ]

    def _scan(self, folder: Folder) -> Iterator[tuple[str, Identity]]:
        return scan(folder.root, recursive=folder.recursive, selects=folder.selects)

    def scan(self, folder: Folder, now: float) -> bool:
        """Look for versions that the ledger does not know.

        False: there are too many at once, and another look has to come when they have settled.
        """
        now = self._clock.at(now)
        room = self._most - self._settler.undecided()
        for batch in in_batches(self._scan(folder)):
            self._progress()
            unsettled = [f for f in batch if not self._settler.has(Key(folder.root, f[0]))]
            for path, identity in self._ledger.files.unknown(folder.root, unsettled):
                key = Key(folder.root, path)
                if self._move_tracker.look(key, identity) is not Found.FOLLOWED:
                    if room <= 0:
                        return False
                    self._settler.notice(key, now)
                    room -= 1
        return True

    def step(self, now: float) -> int:
        """Look at what is due, for a while; returns how many jobs it made."""
        began, jobs = time.monotonic(), 0
        for key in self._settler.due(self._clock.at(now)):
            passed = time.monotonic() - began
            jobs += self._look(key, self._clock.at(now + passed))
            if passed > STEP_SECONDS:
                break
        return jobs

    def reject_rest(self) -> int:
        """`once` is at its end: what is not whole is reported and stays. Returns how many."""
        left = list(self._settler.keys())
        for key in left:
            reason = self._drop(key).waiting or "still changing"
            self._report(
                key,
                Skipped("not_whole_yet", f"{reason}; run lensd again when the file is complete"),
                None,
            )
        return len(left)

    def _wanted(self, folder: Folder, relative: str) -> bool:
        nested = "/" in relative and not folder.recursive
        hidden = is_temporary(os.path.basename(relative))
        return not nested and not hidden and folder.selects(relative)

    def _partner_of(self, folder: Folder, relative: str, now: float) -> None:
        """A download's partner file came or went: look at the file that it belongs to."""
        for suffix in completeness.PARTNERS:
            whole = relative.removesuffix(suffix)
            if whole != relative and self._wanted(folder, whole):
                self._settler.notice(Key(folder.root, whole), now)

    def _look(self, key: Key, now: float) -> int:
        folder_path, name = os.path.split(key.path)
        try:
            folder_fd = open_folder(key.root, folder_path)
        except (OSError, FileError):  # gone, or nothing that lensd may enter; a rescan will tell
            self._drop(key)
            return 0
        try:
            return self._look_at(key, folder_fd, name, now)
        except OSError:
            self._drop(key)
            return 0
        finally:
            os.close(folder_fd)

    def _look_at(self, key: Key, folder_fd: int, name: str, now: float) -> int:
        found = os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
        identity = Identity.of(found)
        if stat.S_ISDIR(found.st_mode) or self._ledger.files.knows(*key, identity):
            self._drop(key)
            return 0
        found_here = self._move_tracker.look(key, identity)
        if found_here is Found.FOLLOWED:
            self._drop(key)
            return 1  # it may be a queued job, under a new name
        if found_here is Found.BUSY:
            self._settler.observe(key, identity, now)
            return 0
        is_new = self._settler.is_new(key)
        if is_new:
            self._log(
                FileDetected(
                    path=os.path.join(*key),
                    watch=self._folders[key.root].name,
                    job_id=None,
                    bytes=identity.size,
                )
            )
        quiet = self._settler.observe(key, identity, now)
        if quiet < self._settler.quiet_seconds:
            if not is_new:
                self._wait(key, "it is still being written")
            return 0
        facts = completeness.probe(folder_fd, name, self._own_inode(key))
        if facts.identity != identity:
            return 0
        return self._decide(key, facts, now)

    def _decide(self, key: Key, facts: completeness.Facts, now: float) -> int:
        settler = self._settler
        idle = settler.idle(key, now)
        verdict = completeness.decide(facts, idle, settler.quiet_seconds, settler.unproven_seconds)
        if verdict.busy:
            settler.busy(key, now)
        if verdict.kind is Kind.WAIT:
            self._wait(key, verdict.reason, unproven=verdict.unproven)
            if verdict.refusal and self.tells_unfinished and settler.tell(key):
                self._report(key, verdict.refusal, None)  # no end: it goes on waiting
            return 0
        first_seen = self._drop(key).first_seen
        if verdict.kind is Kind.OWN:
            if self._move_tracker.look_at_output(key) is Found.NEW:
                self._record(key, facts.identity, outcome=Outcome.OUTPUT)
        elif verdict.refusal is not None:
            self._report(key, verdict.refusal, facts.identity)
        else:
            self._take(key, facts.identity, first_seen, now)
            return 1
        return 0

    def _wait(self, key: Key, reason: str, *, unproven: bool = False) -> None:
        if self._settler.wait(key, reason, unproven=unproven):
            self._ledger.state.set_waiting(*key, self._folders[key.root].name, reason)

    def _take(self, key: Key, identity: Identity, first_seen: float, now: float) -> None:
        job_id = secrets.token_hex(8)
        # Before the ledger has the job: when the job thread takes it, the message is there.
        self._arrivals.put(Arrival(job_id, self._clock.reading(first_seen)))
        self._ledger.jobs.enqueue(
            job_id, key.root, self._folders[key.root].name, key.path, identity
        )
        self._log(
            FileSettled(
                path=os.path.join(*key),
                watch=self._folders[key.root].name,
                job_id=job_id,
                bytes=identity.size,
                wait=round(now - first_seen, 3),
            )
        )

    def _record(self, key: Key, identity: Identity, **columns: Unpack[Columns]) -> str:
        job_id = secrets.token_hex(8)
        watch = self._folders[key.root].name
        self._ledger.files.record(job_id, key.root, watch, key.path, identity, **columns)
        return job_id

    def _report(self, key: Key, refusal: FileError, identity: Identity | None) -> None:
        job_id = None
        if identity is not None:
            job_id = self._record(
                key,
                identity,
                outcome=refusal.outcome,
                reason=refusal.reason,
                message=str(refusal),
            )
        watch = self._folders[key.root].name
        self._log(file_end(refusal, path=os.path.join(*key), watch=watch, job_id=job_id))

    def _drop(self, key: Key) -> Candidate:
        candidate = self._settler.drop(key)
        if candidate.waiting is not None:
            self._ledger.state.set_waiting(*key, self._folders[key.root].name, None)
        return candidate

    def _own_inode(self, key: Key) -> int | None:
        """The inode of lensd's archived original of this path, which may be a link to the file."""
        path = self._archive.find(self._folders[key.root].name, key.path)
        return os.lstat(path).st_ino if path else None
