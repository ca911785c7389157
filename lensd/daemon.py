"""The main loop: configuration -> intake -> jobs -> publish. Also `once`, which ends by itself.

Three threads: watchdog's, which only pass on paths; the runner's, which does the jobs; and this
one, which owns the intake. They meet in one queue and in the ledger.
"""

from __future__ import annotations

import math
import os
import secrets
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

from lensd import __version__, batch, recovery
from lensd.config.models import Config, Watch
from lensd.errors import EXIT_OK, EXIT_SOME_FAILED
from lensd.intake.intake import Intake, linked
from lensd.intake.settle import Settler
from lensd.intake.watch import Watcher
from lensd.notify import notify
from lensd.report import log
from lensd.runner import Runner
from lensd.store.archive import Archive
from lensd.store.lease import block_lease_signal
from lensd.store.ledger import Ledger
from lensd.store.lock import StateLock
from lensd.worker.supervisor import Worker
from lensd.workshop import Workshop

STOP_SECONDS = 8.0
PATIENCE_SECONDS = 1.0
LEVELS = {
    "file.kept": "info",
    "file.skipped": "warning",
    "file.failed": "error",
    "file.quarantined": "error",
    "file.rescued": "warning",
    "worker.crashed": "error",
    "daemon.degraded": "error",
}
FAILURES = ("file.failed", "file.quarantined")


@dataclass(frozen=True, slots=True)
class Stop:
    """A signal arrived."""

    number: int


@dataclass(frozen=True, slots=True)
class Look:
    """A path may have changed."""

    path: str


@dataclass(frozen=True, slots=True)
class Wake:
    """The runner finished something."""


def run(config: Config) -> int:
    """The daemon in the foreground, until SIGTERM or SIGINT. Returns the exit code."""
    with _house(config) as house:
        return house.run()


def once(config: Config, *, paths: list[str], redo: bool) -> int:
    """Process what is there now, then end. Returns the exit code."""
    with _house(config) as house:
        return house.once(paths, redo=redo)


def say(event: str, **fields: Any) -> None:
    """One log line, at its event's level."""
    getattr(log.get(), LEVELS.get(event, "info"))(event, **fields)


@contextmanager
def _house(config: Config) -> Iterator[House]:
    began = time.monotonic()
    block_lease_signal()
    log.configure(config.log.path, config.log.level, config.log.mode_bits)
    with StateLock(config.state.path):
        os.makedirs(config.archive.path, mode=0o750, exist_ok=True)
        ledger = Ledger(config.state.path, __version__)
        try:
            yield House(config, ledger, began)
        finally:
            ledger.close()


class House:
    """All parts of a running lensd."""

    def __init__(self, config: Config, ledger: Ledger, began: float) -> None:
        self._config = config
        self._ledger = ledger
        self._began = began
        self._inbox: SimpleQueue[Stop | Look | Wake] = SimpleQueue()
        archive = Archive(os.path.realpath(config.archive.path))
        worker = Worker(
            command=(sys.executable, "-m", "lensd.compute"),
            tell=say,
            timeout=config.worker.timeout,
            idle_exit=config.worker.idle_exit,
            nice=config.worker.nice,
        )
        self._shop = Workshop(
            ledger=ledger,
            archive=archive,
            worker=worker,
            log=self._say,
            device=config.worker.device,
            quiet_seconds=config.settle.quiet_seconds,
            again=lambda entry: self._inbox.put(Look(entry.full_path)),
        )
        settler = Settler.new(config.settle.quiet_seconds, config.settle.unproven_seconds)
        self._intake = Intake(config.watch, settler, ledger, archive, self._say)
        self._runner = Runner(
            self._shop,
            {w.root: w.settings for w in config.watch},
            self._intake.waited,
            lambda: self._inbox.put(Wake()),
        )
        self._next_scan = math.inf
        self._failed = False
        self._degraded: set[str] = set()

    def _say(self, event: str, **fields: Any) -> None:
        self._failed = self._failed or event in FAILURES
        say(event, **fields)

    def run(self) -> int:
        """Watch, until told to stop."""
        say("daemon.started", version=__version__, pid=os.getpid(), config=self._config.source)
        self._listen_for_signals()
        watcher = Watcher(
            ((w.root, w.recursive) for w in self._config.watch),
            lambda path: self._inbox.put(Look(path)),
        )
        watcher.start()  # before the scan, so that nothing falls between them
        try:
            self._prepare()
            self._scan()
            self._runner.start()
            self._runner.wake()
            self._tell_ready()
            return self._loop()
        finally:
            notify("STOPPING=1")
            self._end()
            watcher.stop()

    def once(self, paths: list[str], *, redo: bool) -> int:
        """Settle all files together, work the queue off, end."""
        say("daemon.started", version=__version__, pid=os.getpid(), config=self._config.source)
        self._listen_for_signals()
        self._prepare()
        self._invite(paths, redo=redo)
        self._runner.start()
        try:
            stopped = self._settle_and_work()
        finally:
            self._end()
        if stopped is not None:
            return 128 + stopped
        return EXIT_SOME_FAILED if self._failed else EXIT_OK

    def _listen_for_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda n, _: self._inbox.put(Stop(n)))

    def _prepare(self) -> None:
        recovery.recover(self._shop)
        self._ledger.release(self._ledger.quarantined_before(__version__))
        for watch in self._config.watch:
            recovery.rescue_strays(
                watch.root, watch.name, recursive=watch.recursive, shop=self._shop
            )
            baseline = self._intake.baseline(watch)
            if baseline is not None:
                files, size = baseline
                say(
                    "daemon.baseline",
                    watch=watch.name,
                    path=watch.path,
                    files=files,
                    bytes=size,
                    symlinked_folders=linked(watch) if watch.recursive else [],
                )

    def _invite(self, paths: list[str], *, redo: bool) -> None:
        """What `once` was asked to treat, whatever became of it before."""
        chosen = batch.choose(self._config, self._ledger, paths, redo=redo)
        self._ledger.release(chosen.released)
        for entry in chosen.again:
            self._ledger.enqueue(
                secrets.token_hex(8),
                entry.root,
                entry.watch,
                entry.path,
                entry.staged or entry.identity,
                redo=True,
                sha256_in=entry.sha256_in,
                archive_path=entry.archive_path,
                archive_method=entry.archive_method,
            )
        now = time.monotonic()
        for file in chosen.files:
            self._intake.hint(os.path.join(file.watch.root, file.path), now)

    def _scan(self) -> None:
        now = time.monotonic()
        for watch in self._config.watch:
            try:
                self._intake.scan(watch, now)
            except OSError as error:  # unmounted, renamed, unreadable: never taken for empty
                self._degrade(watch, error)
            else:
                self._recovered(watch)
        self._next_scan = now + self._config.settle.rescan_seconds

    def _degrade(self, watch: Watch, error: OSError) -> None:
        if watch.root in self._degraded:
            return
        self._degraded.add(watch.root)
        say(
            "daemon.degraded",
            watch=watch.name,
            path=watch.path,
            reason="unreachable",
            message=f"the folder cannot be read: {error.strerror}. Mount it again or give lensd "
            "access; it is looked at with every rescan",
        )

    def _recovered(self, watch: Watch) -> None:
        if watch.root not in self._degraded:
            return
        self._degraded.remove(watch.root)
        say(
            "daemon.recovered",
            watch=watch.name,
            path=watch.path,
            reason="unreachable",
            message="the folder can be read again",
        )

    def _tell_ready(self) -> None:
        notify("READY=1")
        say(
            "daemon.ready",
            watches=[w.name for w in self._config.watch],
            queued=len(self._ledger.unfinished()),
            seconds=round(time.monotonic() - self._began, 4),
        )

    def _loop(self) -> int:
        while self._runner.error is None:
            message = self._next(min(self._next_scan, self._intake.next_due() or math.inf))
            if isinstance(message, Stop):
                say("daemon.stopping", signal=signal.Signals(message.number).name)
                return EXIT_OK
            now = time.monotonic()
            if isinstance(message, Look):
                self._intake.hint(message.path, now)
            if now >= self._next_scan:
                self._scan()
            if self._intake.step(now):
                self._runner.wake()
        raise self._runner.error

    def _next(self, due: float) -> Stop | Look | Wake | None:
        """The next message, or None when `due` (monotonic seconds) has come, or soon."""
        # Python runs a signal's handler in this thread, and one that comes just before the wait
        # begins does not interrupt it: so no wait is long.
        patience = min(PATIENCE_SECONDS, max(0.0, due - time.monotonic()))
        try:
            return self._inbox.get(timeout=patience)
        except Empty:
            return None

    def _settle_and_work(self) -> int | None:
        """Returns the number of the signal that ended it early, if one did."""
        deadline = self._deadline()
        while self._runner.error is None:
            now = time.monotonic()
            if self._intake.step(now):
                self._runner.wake()
            if self._intake.pending and now > deadline:
                self._intake.reject_rest()
            if not self._intake.pending and self._is_worked_off():
                return None
            due = min(deadline, self._intake.next_due() or now) if self._intake.pending else None
            message = self._next(math.inf if due is None else due)
            if isinstance(message, Stop):
                say("daemon.stopping", signal=signal.Signals(message.number).name)
                return message.number
            if isinstance(message, Look):  # somebody wrote to a file while it was its turn
                self._intake.hint(message.path, time.monotonic())
                deadline = self._deadline()
        raise self._runner.error

    def _deadline(self) -> float:
        """When a file that is not whole is given up by `once`."""
        return time.monotonic() + self._config.settle.quiet_seconds + 1

    def _is_worked_off(self) -> bool:
        # In this order: the runner takes a job only when it is not idle, and when it is idle
        # again, what it wants to be looked at anew is in the inbox.
        if self._ledger.next_queued() is not None:
            return False
        return self._runner.idle.is_set() and self._inbox.empty()

    def _end(self) -> None:
        if self._runner.is_alive():
            self._runner.finish(STOP_SECONDS)
