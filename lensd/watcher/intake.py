"""The intake: from hints and scans to jobs. It has the candidates, which are not settled yet."""

from __future__ import annotations

import os
import stat
import time
import traceback
from collections.abc import Callable, Iterator, Sequence

from lensd.errors import FileError, Reason, Skipped, StorageError, bug
from lensd.store.archive import Archive
from lensd.store.fs import is_temporary, open_folder
from lensd.store.identity import Identity
from lensd.store.ledger import Ledger
from lensd.store.paths import is_below
from lensd.watcher import completeness
from lensd.watcher.completeness import Kind
from lensd.watcher.folder import Folder
from lensd.watcher.intake_recorder import IntakeRecorder
from lensd.watcher.move_tracker import Found, MoveTracker
from lensd.watcher.scan import in_batches, scan
from lensd.watcher.settle import Candidate, Key, Settler
from lensd.watcher.steady_clock import SteadyClock

# A scan stops when there are so many candidates: 100,000 need 75 MB.
MOST_CANDIDATES = 20_000
# After so long `step` returns, so that the main loop handles signals.
STEP_SECONDS = 0.5


class Intake:
    """One thread calls this; times are monotonic seconds that it passes in.

    Inside, times are those of a SteadyClock: a file has its quiet seconds whatever the clock does.
    """

    def __init__(
        self,
        folders: Sequence[Folder],
        settler: Settler,
        ledger: Ledger,
        archive: Archive,
        move_tracker: MoveTracker,
        recorder: IntakeRecorder,
        progress: Callable[[], None] = lambda: None,
        most: int = MOST_CANDIDATES,
    ) -> None:
        """`progress` is called for each file of a scan, which ends at `most` candidates."""
        self._folders = {f.root: f for f in folders}
        self._settler = settler
        self._ledger = ledger
        self._archive = archive
        self._move_tracker = move_tracker
        self._recorder = recorder
        self._progress = progress
        self._most = most
        self._clock = SteadyClock()
        self._excluded: frozenset[str] = frozenset()
        self._given_up: dict[Key, Identity] = {}  # versions whose look ended in a bug
        # whether to log a file that was incomplete for long, before `reject_candidates` does
        self.reports_incomplete = True

    @property
    def pending(self) -> int:
        """How many candidates there are."""
        return len(self._settler)

    @property
    def may_settle_by_time(self) -> bool:
        """Whether a candidate may settle without a change, so that `once` should wait for it."""
        return self._settler.may_settle_by_time()

    def next_due(self) -> float | None:
        """When `step` has something to do."""
        due = self._settler.next_due()
        return None if due is None else self._clock.reading(due)

    def quiet_at(self) -> float | None:
        """When all candidates have settled that settle by time alone; None without any."""
        at = self._settler.quiet_at()
        return None if at is None else self._clock.reading(at)

    def exclude(self, roots: frozenset[str]) -> None:
        """Forget the candidates in these roots, which are degraded, and take no new ones."""
        self._excluded = roots
        for key in list(self._settler.keys()):
            if key.root in roots:
                self._drop(key)

    def notice(self, path: str, now: float) -> None:
        """Look at an absolute path soon: an event named it, or a job ended without an outcome."""
        now = self._clock.at(now)
        folder = next((f for r, f in self._folders.items() if is_below(path, r)), None)
        if folder is None or folder.root in self._excluded:
            return
        relative = os.path.relpath(path, folder.root)
        if _is_selected(folder, relative):
            self._settler.notice(Key(folder.root, relative), now)
            return
        for suffix in completeness.PARTNERS:  # a partner came or went: look at its file
            whole = relative.removesuffix(suffix)
            if whole != relative and _is_selected(folder, whole):
                self._settler.notice(Key(folder.root, whole), now)

    def scan(self, folder: Folder, now: float) -> bool:
        """Make candidates of the versions that the ledger does not know.

        False: there are too many; scan again when some have settled. Raises OSError when the
        folder cannot be read.
        """
        now = self._clock.at(now)
        left = self._most - self._settler.undecided()
        found = scan(folder.root, recursive=folder.recursive, selects=folder.selects)
        for batch in in_batches(self._count(found)):
            unsettled = [f for f in batch if not self._settler.has(Key(folder.root, f[0]))]
            for path, identity in self._ledger.files.unknown(folder.root, unsettled):
                key = Key(folder.root, path)
                if self._is_candidate(key, identity):
                    if left <= 0:
                        return False
                    self._settler.notice(key, now)
                    left -= 1
        return True

    def _is_candidate(self, key: Key, identity: Identity) -> bool:
        """Whether no row of the ledger followed to the path."""
        try:
            return self._move_tracker.follow_file(key, identity) is not Found.FOLLOWED
        except StorageError:
            raise
        except Exception:  # noqa: BLE001  one file must not end the daemon
            self._give_up(key, identity, traceback.format_exc(limit=-8))
            return False

    def _count(self, found: Iterator[tuple[str, Identity]]) -> Iterator[tuple[str, Identity]]:
        """The same, with a call of `progress` for each file."""
        for file in found:
            self._progress()
            yield file

    def follow_moved_files(self) -> None:
        """Let the rows of files that were moved while lensd did not run follow them."""
        self._move_tracker.follow_all()

    def step(self, now: float) -> int:
        """Look at the candidates that are due, for a while; returns how many became jobs."""
        began, jobs = time.monotonic(), 0
        for key in self._settler.due(self._clock.at(now)):
            passed = time.monotonic() - began
            jobs += self._look(key, self._clock.at(now + passed))
            if passed > STEP_SECONDS:
                break
        return jobs

    def reject_candidates(self) -> None:
        """At the end of `once`: report the files that are not complete."""
        for key in list(self._settler.keys()):
            reason = self._drop(key).waiting or "still changing"
            message = f"{reason}; run lensd again when the file is complete"
            self._recorder.record_waiting(key, reason)  # `lensd status` names it
            self._recorder.report_refusal(key, Skipped(Reason.NOT_WHOLE_YET, message))

    def _look(self, key: Key, now: float) -> bool:
        """Look at a candidate. True if there may be a new job."""
        folder_path, name = os.path.split(key.path)
        try:
            folder_fd = open_folder(key.root, folder_path)
        except (OSError, FileError):  # it is gone, or a link; a scan finds it when it is back
            self._drop(key)
            return False
        identity = None
        try:
            found = os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
            identity = Identity.of(found)
            if stat.S_ISDIR(found.st_mode) or self._given_up.get(key) == identity:
                self._drop(key)
                return False
            return self._look_in_folder(key, folder_fd, name, identity, now)
        except (OSError, FileError):
            self._drop(key)
            return False
        except StorageError:
            self._settler.look_again(key, now)
            raise
        except Exception:  # noqa: BLE001  one file must not end the daemon
            self._give_up(key, identity, traceback.format_exc(limit=-8))
            return False
        finally:
            os.close(folder_fd)

    def _look_in_folder(
        self, key: Key, folder_fd: int, name: str, identity: Identity, now: float
    ) -> bool:
        if self._ledger.files.knows(*key, identity):
            self._drop(key)
            return False
        followed = self._move_tracker.follow_file(key, identity)
        if followed is Found.FOLLOWED:
            self._drop(key)
            return True  # the row may be a queued job
        if followed is Found.BUSY:
            self._settler.observe(key, identity, now)
            return False
        is_new = self._settler.is_new(key)
        if is_new:
            self._recorder.report_detected(key, identity)
        quiet = self._settler.observe(key, identity, now)
        if quiet < self._settler.quiet_seconds:
            if not is_new:
                self._let_wait(key, "it is still being written")
            return False
        facts = completeness.probe(folder_fd, name, self._archived_inode(key))
        return facts.identity == identity and self._decide(key, facts, now)

    def _give_up(self, key: Key, identity: Identity | None, trace: str) -> None:
        """Log a bug that concerns one file, and take the file again only when it has changed."""
        error = bug(trace)
        if self._settler.has(key):
            self._settler.drop(key)
        if identity is None or self._given_up.get(key) == identity:
            return
        self._given_up[key] = identity
        try:
            self._recorder.record_refusal(key, error, identity)
        except StorageError:
            raise
        except Exception:  # noqa: BLE001  the ledger may be what has the bug
            self._recorder.report_refusal(key, error)

    def _decide(self, key: Key, facts: completeness.Facts, now: float) -> bool:
        """What becomes of a quiet file. True if it is a job."""
        settler = self._settler
        idle = settler.idle(key, now)
        verdict = completeness.decide(facts, idle, settler.quiet_seconds, settler.unproven_seconds)
        if verdict.busy:
            settler.note_busy(key, now)
        if verdict.kind is Kind.WAIT:
            self._let_wait(key, verdict.reason, unproven=verdict.unproven)
            if verdict.refusal and self.reports_incomplete and settler.is_first_report(key):
                self._recorder.report_refusal(key, verdict.refusal)
            return False
        if verdict.kind is Kind.TAKE:
            self._enqueue(key, facts.identity, now)
            return True
        self._drop(key)
        if verdict.kind is Kind.OWN:
            if self._move_tracker.follow_output(key) is Found.NEW:
                self._recorder.record_output(key, facts.identity)
        elif verdict.refusal is not None:
            self._recorder.record_refusal(key, verdict.refusal, facts.identity)
        return False

    def _enqueue(self, key: Key, identity: Identity, now: float) -> None:
        candidate = self._settler.candidate(key)
        self._recorder.enqueue(
            key,
            identity,
            first_seen=self._clock.reading(candidate.first_seen),
            wait=now - candidate.first_seen,
            waited=candidate.waiting is not None,
        )
        self._settler.drop(key)  # now: without the job in the ledger it is looked at again

    def _let_wait(self, key: Key, reason: str, *, unproven: bool = False) -> None:
        if self._settler.let_wait(key, reason, unproven=unproven):
            self._recorder.record_waiting(key, reason)

    def _drop(self, key: Key) -> Candidate:
        candidate = self._settler.drop(key)
        if candidate.waiting is not None:
            self._recorder.record_waiting(key, None)
        return candidate

    def _archived_inode(self, key: Key) -> int | None:
        """The inode of the archived original of this path, which may be a link to the file."""
        path = self._archive.originals.find(self._folders[key.root].name, key.path)
        return os.lstat(path).st_ino if path else None


def _is_selected(folder: Folder, relative: str) -> bool:
    is_nested = "/" in relative and not folder.recursive
    is_own = is_temporary(os.path.basename(relative))
    return not is_nested and not is_own and folder.selects(relative)
