"""The main loop: configuration -> intake -> jobs -> publish. Also `once`, which ends by itself.

Three threads: watchdog's, which only pass on paths; the runner's, which does the jobs; and this
one, which owns the intake. They meet in one queue and in the ledger.
"""

from __future__ import annotations

import datetime as dt
import math
import os
import secrets
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

from lensd import __version__, batch, rebuild, recovery
from lensd.config.models import Config, Watch
from lensd.config.reading import load_for_run
from lensd.control import Server, Tell
from lensd.desk import Desk, serve
from lensd.errors import EXIT_OK, EXIT_SOME_FAILED, ConfigError, LensdError, StorageError
from lensd.intake.guard import Guard
from lensd.intake.intake import Intake, linked
from lensd.intake.settle import Settler
from lensd.notify import Pulse, notify, notify_reloading
from lensd.pruning import DailyPass, Pruner
from lensd.report import log
from lensd.runner import Runner
from lensd.schedule import opens_in
from lensd.store.archive import Archive
from lensd.store.claim import Claims
from lensd.store.lease import block_lease_signal
from lensd.store.ledger import Ledger
from lensd.store.lock import StateLock
from lensd.worker.supervisor import Worker
from lensd.workshop import Workshop

STOP_SECONDS = 8.0
PATIENCE_SECONDS = 1.0
LEDGER_AGAIN_SECONDS = 10.0  # after a full state disk: until the next look at the folders
BETWEEN_JOBS = ("restore", "prune")  # requests that change files, so the runner does them
LEVELS = {
    "file.kept": "info",
    "file.skipped": "warning",
    "file.failed": "error",
    "file.quarantined": "error",
    "file.postponed": "warning",
    "file.rescued": "warning",
    "worker.crashed": "error",
    "daemon.degraded": "error",
    "daemon.refused": "error",
}
FAILURES = ("file.failed", "file.quarantined")


@dataclass(frozen=True, slots=True)
class Stop:
    """A signal arrived."""

    number: int


@dataclass(frozen=True, slots=True)
class Reload:
    """SIGHUP: read the configuration again."""


@dataclass(frozen=True, slots=True)
class Look:
    """A path may have changed."""

    path: str


@dataclass(frozen=True, slots=True)
class Wake:
    """The runner finished something."""


Inbox = SimpleQueue[Stop | Reload | Look | Wake]


def run(config: Config) -> int:
    """The daemon in the foreground, until SIGTERM or SIGINT. Returns the exit code."""
    began = time.monotonic()
    inbox = _listen()
    signal.signal(signal.SIGHUP, lambda *_: inbox.put(Reload()))
    with _ledger(config) as ledger:
        _require_unclaimed(config)
        say("daemon.started", version=__version__, pid=os.getpid(), config=config.source)
        following: Config | None = config
        while following is not None:  # each time with the configuration that SIGHUP brought
            house = House(following, ledger, began, inbox)
            following = house.run()
            began = time.monotonic()
    return EXIT_OK


def once(config: Config, *, paths: list[str], redo: bool) -> int:
    """Process what is there now, then end. Returns the exit code."""
    began = time.monotonic()
    inbox = _listen()
    with _ledger(config) as ledger:
        _require_unclaimed(config)
        say("daemon.started", version=__version__, pid=os.getpid(), config=config.source)
        return House(config, ledger, began, inbox).once(paths, redo=redo)


def say(event: str, **fields: Any) -> None:
    """One log line, at its event's level."""
    getattr(log.get(), LEVELS.get(event, "info"))(event, **fields)


def _require_unclaimed(config: Config) -> None:
    """Raises LockedError when another lensd watches one of the folders."""
    with Claims() as claims:
        for watch in config.watch:
            with suppress(OSError):  # it is not there: claimed when it is
                claims.claim(watch.root)


def _listen() -> Inbox:
    """Turn signals into messages, before there is any other thread."""
    inbox: Inbox = SimpleQueue()
    block_lease_signal()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda n, _: inbox.put(Stop(n)))
    return inbox


@contextmanager
def _ledger(config: Config) -> Iterator[Ledger]:
    log.configure(config.log.path, config.log.level, config.log.mode_bits)
    with StateLock(config.state.path):
        os.makedirs(config.archive.path, mode=0o750, exist_ok=True)
        ledger = Ledger(config.state.path, __version__)
        try:
            yield ledger
        finally:
            ledger.close()


class House:
    """All parts of a running lensd, for one configuration."""

    def __init__(self, config: Config, ledger: Ledger, began: float, inbox: Inbox) -> None:
        self._config = config
        self._ledger = ledger
        self._began = began
        self._inbox = inbox
        archive = Archive(os.path.realpath(config.archive.path))
        worker = Worker(
            command=(sys.executable, "-m", "lensd.compute"),
            tell=say,
            timeout=config.worker.timeout,
            idle_exit=config.worker.idle_exit,
            nice=config.worker.nice,
            memory_limit=config.worker.memory_limit,
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
        self._claims = Claims()
        self._guard = Guard(
            config.watch,
            self._intake,
            ledger,
            self._claims,
            rescan_seconds=config.settle.rescan_seconds,
            hint=lambda path: self._inbox.put(Look(path)),
            returned=self._return,
            released=self._go_on,
            log=self._say,
        )
        self._shop.away = lambda: self._guard.held
        self._shop.is_away = self._guard.is_degraded
        self._shop.moved = self._intake.follower.search
        self._runner = Runner(
            self._shop,
            {w.root: w.settings for w in config.watch},
            self._intake.waited,
            lambda: self._inbox.put(Wake()),
            lambda: opens_in(config.worker.hours, dt.datetime.now().astimezone()),
            self._daily_pass(archive),
        )
        stop = self._shop.stopping.is_set
        self._desk = Desk(config, ledger, archive, self._say, self._look_at, stop)
        self._failed = False
        self._ledger_fault: StorageError | None = None
        self._ledger_again = -math.inf

    def _daily_pass(self, archive: Archive) -> DailyPass | None:
        days = self._config.archive.keep_days
        return None if days is None else DailyPass(Pruner(self._ledger, archive, self._say, days))

    def _say(self, event: str, **fields: Any) -> None:
        self._failed = self._failed or event in FAILURES
        say(event, **fields)

    def run(self) -> Config | None:
        """Watch until told to stop, or (the new configuration is returned) to start anew."""
        self._shop.patient = True
        control = Server(self._config.state.path, self._answer)
        try:
            self._ledger.set_meta("held", None)
            self._guard.start()  # before the scan, so that nothing falls between them
            self._prepare()
            self._guard.tick(time.monotonic())
            self._runner.start()
            self._runner.wake()
            control.start()
            self._tell_ready()
            return self._loop()
        finally:
            control.stop()
            self._end()

    def once(self, paths: list[str], *, redo: bool) -> int:
        """Settle all files together, work the queue off, end."""
        self._guard.open()
        self._failed = bool(self._guard.held)
        self._prepare()
        self._intake.tells_unfinished = False
        self._invite(paths, redo=redo)
        self._runner.start()
        try:
            stopped = self._settle_and_work()
        finally:
            self._end()
        if stopped is not None:
            return 128 + stopped
        return EXIT_SOME_FAILED if self._failed else EXIT_OK

    def _prepare(self) -> None:
        self._intake.follower.finish()
        recovery.recover(self._shop)
        self._ledger.release(self._ledger.quarantined_before(__version__))
        for watch in self._healthy():
            self._open(watch)

    def _healthy(self) -> tuple[Watch, ...]:
        return tuple(w for w in self._config.watch if w.root not in self._guard.held)

    def _open(self, watch: Watch) -> None:
        """What a folder needs before its first scan."""
        rebuild.rebuild(watch, self._ledger, self._shop.archive, self._say)
        rebuild.clear_strays(watch, self._shop.archive)
        recovery.rescue_strays(watch.root, watch.name, recursive=watch.recursive, shop=self._shop)
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

    def _return(self, watch: Watch) -> bool:
        """A folder is back, and its jobs have waited; False while one is still failing."""
        if self._runner.is_busy_in(watch.root):
            return False
        recovery.continue_jobs(self._shop, lambda root: root == watch.root)
        self._open(watch)
        return True

    def _go_on(self) -> None:
        self._runner.wake()

    def _invite(self, paths: list[str], *, redo: bool) -> None:
        """What `once` was asked to treat, whatever became of it before."""
        self._intake.follow()
        there = self._config.model_copy(update={"watch": self._healthy()})
        chosen = batch.choose(there, self._ledger, paths, redo=redo)
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

    def _tell_ready(self) -> None:
        notify("READY=1")
        say(
            "daemon.ready",
            watches=[w.name for w in self._config.watch],
            queued=len(self._ledger.unfinished()),
            seconds=round(time.monotonic() - self._began, 4),
        )

    def _loop(self) -> Config | None:
        pulse = Pulse()
        while self._runner.error is None:
            if self._guard.alive and self._shop.worker.is_fresh(time.monotonic()):
                pulse.beat(time.monotonic())
            message = self._next(min(self._guard.next_due(), self._intake.next_due() or math.inf))
            if isinstance(message, Stop):
                say("daemon.stopping", signal=signal.Signals(message.number).name)
                notify("STOPPING=1")
                return None
            if isinstance(message, Reload):
                if (following := self._reload()) is not None:
                    return following
                continue
            self._turn(message)
        raise self._runner.error

    def _turn(self, message: Look | Wake | None) -> None:
        """What a message and the time ask of the intake."""
        now = time.monotonic()
        try:
            if isinstance(message, Look):
                self._intake.hint(message.path, now)
            self._guard.tick(now)
            if self._intake.step(now):
                self._runner.wake()
        except StorageError as error:
            # What could not be written down is found again by the next look at the folders.
            self._ledger_again = now + LEDGER_AGAIN_SECONDS
            self._guard.look_again(self._ledger_again)
            self._tell_ledger(error)
        else:
            if now >= self._ledger_again:
                self._tell_ledger(None)

    def _tell_ledger(self, fault: StorageError | None) -> None:
        """One line when the ledger cannot be written, one when it can again."""
        known, self._ledger_fault = self._ledger_fault, fault
        if (known is None) == (fault is None):
            return
        say(
            "daemon.recovered" if fault is None else "daemon.degraded",
            watch=None,
            path=self._config.state.path,
            reason="io_error",
            message=f"{fault}. New files wait until then" if fault else "new files are taken again",
        )

    def _reload(self) -> Config | None:
        """The new configuration; None when it has faults: then everything stays as it is."""
        notify_reloading()
        try:
            found = load_for_run(self._config.source, waits=True)
            self._require_same_state(found)
            _require_unclaimed(found)
            log.configure(found.log.path, found.log.level, found.log.mode_bits)
        except LensdError as error:
            old = self._config.log
            log.configure(old.path, old.level, old.mode_bits)
            details = getattr(error, "details", str(error))
            message = f"the configuration stays as it was; correct it and reload again: {details}"
            say("daemon.refused", config=self._config.source, message=message)
            notify("READY=1")
            return None
        say("daemon.reloaded", config=found.source)
        return found

    def _require_same_state(self, found: Config) -> None:
        if os.path.realpath(found.state.path) != os.path.realpath(self._config.state.path):
            raise ConfigError(
                f"state.path: {found.state.path} is another state folder, which a reload cannot "
                "change; restart lensd"
            )

    def _answer(self, verb: str, arguments: dict[str, Any], tell: Tell) -> int:
        """A request from the control socket, in a thread of its own."""
        if verb in BETWEEN_JOBS:
            return self._runner.errand(lambda: serve(self._desk, verb, arguments, tell))
        return serve(self._desk, verb, arguments, tell)

    def _look_at(self, paths: Iterable[str]) -> None:
        for path in paths:
            self._inbox.put(Look(path))
        self._runner.wake()

    def _next(self, due: float) -> Stop | Reload | Look | Wake | None:
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
            if self._intake.pending and now > deadline and not self._intake.hopeful:
                self._intake.reject_rest()
            if not self._intake.pending and self._is_worked_off():
                return None
            message = self._next(self._intake.next_due() or math.inf)
            if isinstance(message, Stop):
                say("daemon.stopping", signal=signal.Signals(message.number).name)
                return message.number
            if isinstance(message, Look):  # somebody wrote to a file while it was its turn
                self._intake.hint(message.path, time.monotonic())
                deadline = self._deadline()
        raise self._runner.error

    def _deadline(self) -> float:
        """When a file that is not whole, and does not become so by waiting, is given up."""
        return time.monotonic() + self._config.settle.quiet_seconds + 1

    def _is_worked_off(self) -> bool:
        # In this order: the runner takes a job only when it is not idle, and when it is idle
        # again, what it wants to be looked at anew is in the inbox.
        if self._ledger.next_queued(without=self._guard.held) is not None:
            return False
        return self._runner.idle.is_set() and self._inbox.empty()

    def _end(self) -> None:
        if self._runner.is_alive():
            self._runner.finish(STOP_SECONDS)
        self._guard.stop()
        self._claims.close()
