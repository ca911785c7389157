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
from lensd.config.models import Config
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
            log=say,
            device=config.worker.device,
            quiet_seconds=config.settle.quiet_seconds,
            again=lambda entry: self._inbox.put(Look(entry.full_path)),
        )
        settler = Settler.new(config.settle.quiet_seconds, config.settle.unproven_seconds)
        self._intake = Intake(config.watch, settler, ledger, archive, say)
        self._runner = Runner(
            self._shop,
            {w.root: w.settings for w in config.watch},
            self._intake.waited,
            lambda: self._inbox.put(Wake()),
        )
        self._next_scan = math.inf

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
        failed = sum(self._runner.ends[e] for e in FAILURES)
        return EXIT_SOME_FAILED if failed else EXIT_OK

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
                archive_path=entry.archive_path,
                archive_method=entry.archive_method,
            )
        now = time.monotonic()
        for file in chosen.files:
            self._intake.hint(os.path.join(file.watch.root, file.path), now)

    def _scan(self) -> None:
        now = time.monotonic()
        for watch in self._config.watch:
            self._intake.scan(watch, now)
        self._next_scan = now + self._config.settle.rescan_seconds

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
        """The next message, or None when `due` (monotonic seconds) has come."""
        try:
            if due == math.inf:
                return self._inbox.get()
            return self._inbox.get(timeout=max(0.0, due - time.monotonic()))
        except Empty:
            return None

    def _settle_and_work(self) -> int | None:
        """Returns the number of the signal that ended it early, if one did."""
        deadline = time.monotonic() + self._config.settle.quiet_seconds + 1
        while self._runner.error is None:
            now = time.monotonic()
            if self._intake.step(now):
                self._runner.wake()
            if self._intake.pending and now > deadline:
                self._intake.reject_rest()
            if not self._intake.pending and self._is_worked_off():
                return None
            message = self._next(min(deadline, self._intake.next_due() or now + 1))
            if isinstance(message, Stop):
                say("daemon.stopping", signal=signal.Signals(message.number).name)
                return message.number
        raise self._runner.error

    def _is_worked_off(self) -> bool:
        return self._runner.idle.is_set() and self._ledger.next_queued() is None

    def _end(self) -> None:
        if self._runner.is_alive():
            self._runner.finish(STOP_SECONDS)
