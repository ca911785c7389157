"""The thread that finds folders whose filesystem does not answer, and leaves them to themselves.

It asks each watched folder and the archive every few seconds. A folder that does not answer in time
is degraded (`not_responding`) and closed to jobs; a job that runs there is left to its thread, and
another job thread takes the next jobs. When the folder answers, and no thread is held there any
more, it is open again, and its own thread scans it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from lensd.daemon.job_thread import JobThread
from lensd.daemon.root_thread import RootThread
from lensd.daemon.stragglers import Stragglers
from lensd.errors import DegradedReason, StorageError
from lensd.logs.events import DaemonDegraded, DaemonRecovered
from lensd.store.ledger.notes import DegradedRoot
from lensd.watcher.degraded_roots import DegradedRoots
from lensd.watcher.folder import Log
from lensd.watcher.root_answers import Question
from lensd.watcher.root_states import RootStates

LOOK_SECONDS = 1.0
ASK_SECONDS = 5.0
ANSWER_SECONDS = 10.0
# For the thread of a root, whose folder answers, while another folder below it may hang.
STUCK_SECONDS = 120.0


@dataclass(slots=True)
class _Asked:
    """A folder that is asked. `name`: of the watch; None for the archive."""

    path: str
    question: Question
    shown: str  # the path as the configuration writes it
    name: str | None = None
    thread: RootThread | None = None
    ask_in: float = 0.0
    unanswered: float = 0.0  # seconds
    stuck: float = 0.0  # seconds that the root's thread has made no step
    steps: int = -1
    is_reported: bool = False

    def age(self, seconds: float) -> None:
        """Some time has passed while lensd was running."""
        self.ask_in -= seconds
        if self.ask_in <= 0 and not self.question.is_open:
            self.ask_in = ASK_SECONDS
            self.question.ask()
            self.unanswered = 0.0
        else:
            self.unanswered = self.unanswered + seconds if self.question.is_open else 0.0
        steps, thread = self.steps, self.thread
        self.steps = -1 if thread is None or not thread.is_busy else thread.steps
        self.stuck = self.stuck + seconds if steps == self.steps != -1 else 0.0


class AnswerWatch(threading.Thread):
    """`folders` are (root, path as configured, name)."""

    def __init__(
        self,
        folders: Iterable[tuple[str, str, str]],
        threads: Sequence[RootThread],
        states: RootStates,
        degraded: DegradedRoots,
        jobs: JobThread,
        stragglers: Stragglers,
        log: Log,
    ) -> None:
        super().__init__(name="answers", daemon=True)
        self._states, self._degraded, self._jobs = states, degraded, jobs
        self._stragglers, self._log = stragglers, log
        self._threads = threads
        self.error: BaseException | None = None
        self._is_stopping = threading.Event()
        self._asked = {path: _Asked(path, q, path) for path, q in states.questions.items()}
        for root, shown, name in folders:
            self._asked[root].shown, self._asked[root].name = shown, name
        for thread in threads:
            self._asked[thread.root].thread = thread

    def stop(self) -> None:
        """From any thread."""
        self._is_stopping.set()

    def run(self) -> None:
        try:
            self._watch()
        except BaseException as error:  # noqa: BLE001  the main loop must end with it
            self.error = error

    def _watch(self) -> None:
        before = time.monotonic()
        while not self._is_stopping.wait(LOOK_SECONDS):
            now = time.monotonic()
            # lensd itself may have been stopped meanwhile
            passed, before = min(now - before, 2 * LOOK_SECONDS), now
            for asked in self._asked.values():
                asked.age(passed)
                if any(not a.name and a.is_reported for a in self._asked.values()):
                    asked.stuck = 0.0  # the threads of all roots may wait for the archive
                with suppress(StorageError):  # its note is missing in the ledger; the log has it
                    self._judge(asked)
            self._leave_jobs()

    def _judge(self, asked: _Asked) -> None:
        hangs = (
            asked.unanswered >= ANSWER_SECONDS
            or asked.stuck >= STUCK_SECONDS
            or self._stragglers.are_in(asked.path)
        )
        if hangs and not asked.is_reported:
            asked.is_reported = True
            self._begin_hang(asked)
        elif hangs or asked.question.is_open or asked.stuck:
            return
        elif asked.is_reported:
            asked.is_reported = False
            self._end_hang(asked)
        elif asked.path in self._states.silent:  # a job did not wait for the answer
            self._states.end_silence(asked.path)
            self._jobs.wake()

    def _leave_jobs(self) -> None:
        """Let another thread take the next jobs, if the running one is in such a folder."""
        roots = (asked.path for asked in self._asked.values() if asked.name)
        left = self._jobs.leave(self._states.hanging.intersection(roots))
        if left is not None:
            self._stragglers.add(*left)

    def _wake_all(self) -> None:
        for thread in self._threads:
            thread.inbox.wake()
        self._jobs.wake()

    def _begin_hang(self, asked: _Asked) -> None:
        message = (
            f"the filesystem of {asked.shown} does not answer: its server, or its disk, hangs. "
            + ("Its jobs wait; the other folders go on. " if asked.name else "All jobs wait. ")
            + "Start the server again, or unmount the folder (umount -l)"
        )
        reason = DegradedReason.NOT_RESPONDING
        self._log(
            DaemonDegraded(watch=asked.name, path=asked.shown, reason=reason, message=message)
        )
        self._states.note_hanging(asked.path)
        self._wake_all()  # the others need not wait for it any longer
        if asked.name is None:
            self._jobs.backoffs.note_hang(f"{asked.shown}: {message}")
            return
        note = DegradedRoot(
            watch=asked.name, path=asked.shown, reason=reason, message=message, since=time.time()
        )
        self._degraded.set_silent(asked.path, note)

    def _end_hang(self, asked: _Asked) -> None:
        message = "it answers again; " + ("lensd scans all of it" if asked.name else "jobs go on")
        reason = DegradedReason.NOT_RESPONDING
        self._log(
            DaemonRecovered(watch=asked.name, path=asked.shown, reason=reason, message=message)
        )
        self._states.end_silence(asked.path)
        if asked.thread is not None:
            asked.thread.inbox.note_lost_events(asked.path)  # it watches and scans all of it
        self._jobs.wake()
        if asked.name is None:
            self._jobs.backoffs.note_hang(None)
        else:
            self._degraded.set_silent(asked.path, None)
