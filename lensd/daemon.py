"""The daemon's main loop: folders are watched, requests answered, the configuration reloaded."""

from __future__ import annotations

import math
import os
import signal
import time
from typing import Any

from lensd.config.models import Config
from lensd.config.reading import load_for_run
from lensd.control import Server, Tell
from lensd.desk import Desk, serve
from lensd.errors import EXIT_OK, ConfigError, LensdError, StorageError
from lensd.house import (
    House,
    Inbox,
    Look,
    Reload,
    Stop,
    Wake,
    listen,
    locked_ledger,
    require_unclaimed,
    say,
)
from lensd.notify import notify, notify_reloading
from lensd.report import log
from lensd.store.ledger import Ledger

LEDGER_AGAIN_SECONDS = 10.0  # after a full state disk: until the next look at the folders
BETWEEN_JOBS = ("restore", "prune")  # requests that change files, so the runner does them


def run(config: Config) -> int:
    """The daemon in the foreground, until SIGTERM or SIGINT. Returns the exit code."""
    began = time.monotonic()
    inbox = listen()
    signal.signal(signal.SIGHUP, lambda *_: inbox.put(Reload()))
    with locked_ledger(config) as ledger:
        following: Config | None = config
        while following is not None:  # each time with the configuration that SIGHUP brought
            following = Daemon(following, ledger, began, inbox).run()
            began = time.monotonic()
    return EXIT_OK


class Daemon:
    """One configuration's life."""

    def __init__(self, config: Config, ledger: Ledger, began: float, inbox: Inbox) -> None:
        self._config = config
        self._began = began
        self._house = House(config, ledger, inbox, patient=True)
        self._desk = Desk(
            config,
            ledger,
            self._house.archive,
            self._house.say,
            self._house.look,
            self._house.shop.stopping.is_set,
        )
        self._ledger_fault: StorageError | None = None
        self._ledger_again = -math.inf

    def run(self) -> Config | None:
        """Watch until told to stop, or (the new configuration is returned) to start anew."""
        house = self._house
        control = Server(self._config.state.path, self._answer)
        try:
            house.ledger.set_meta("held", None)
            house.guard.start()  # before the scan, so that nothing falls between them
            house.prepare()
            house.guard.tick(time.monotonic())
            house.runner.start()
            house.runner.wake()
            control.start()
            self._tell_ready()
            return self._loop()
        finally:
            control.stop()
            house.close()

    def _tell_ready(self) -> None:
        notify("READY=1")
        say(
            "daemon.ready",
            watches=[w.name for w in self._config.watch],
            queued=self._house.ledger.count_unfinished(),
            seconds=round(time.monotonic() - self._began, 4),
        )

    def _loop(self) -> Config | None:
        house = self._house
        while house.runner.error is None:
            if house.guard.alive and house.shop.worker.is_fresh(time.monotonic()):
                house.pulse.beat(time.monotonic())
            message = house.next(min(house.guard.next_due(), house.intake.next_due() or math.inf))
            if isinstance(message, Stop):
                say("daemon.stopping", signal=signal.Signals(message.number).name)
                notify("STOPPING=1")
                return None
            if isinstance(message, Reload):
                if (following := self._reload()) is not None:
                    return following
                continue
            self._turn(message)
        raise house.runner.error

    def _turn(self, message: Look | Wake | None) -> None:
        """What a message and the time ask of the intake."""
        house, now = self._house, time.monotonic()
        try:
            if isinstance(message, Look):
                house.intake.hint(message.path, now)
            house.guard.tick(now)
            if house.intake.step(now):
                house.runner.wake()
        except StorageError as error:
            # What could not be written down is found again by the next look at the folders.
            self._ledger_again = now + LEDGER_AGAIN_SECONDS
            house.guard.look_again(self._ledger_again)
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
            require_unclaimed(found)
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
            return self._house.runner.errand(lambda: serve(self._desk, verb, arguments, tell))
        return serve(self._desk, verb, arguments, tell)
