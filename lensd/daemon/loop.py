"""The daemon's main loop: it waits for signals, and reloads the configuration.

It makes no call that may hang, so that SIGTERM always ends lensd.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from lensd.config.load import load_for_run, load_in_time
from lensd.config.model import Config
from lensd.daemon.app import PATIENCE_SECONDS, App
from lensd.daemon.control import Send, Server
from lensd.daemon.control_messages import FileRequest, Request, RestoreRequest
from lensd.daemon.control_messages import Message as ToPerson
from lensd.daemon.exclusive import locked_ledger, require_unclaimed
from lensd.daemon.inbox import Inbox, Reload, Stop, listen
from lensd.daemon.ledger_check import LedgerCheck
from lensd.daemon.progress import ProgressObserver
from lensd.daemon.requests import RequestHandler
from lensd.daemon.stragglers import Stragglers
from lensd.daemon.systemd_notify import notify, notify_reloading
from lensd.errors import EXIT_OK, ConfigError, DegradedReason, LensdError, StorageError
from lensd.logs import log
from lensd.logs.events import (
    DaemonDegraded,
    DaemonReady,
    DaemonRefused,
    DaemonReloaded,
    DaemonStopping,
)
from lensd.store.ledger import Ledger
from lensd.store.paths import is_below

# From SIGTERM or the loss of the ledger to the end of a process that a hanging disk holds.
LAST_SECONDS = 20.0


def run(config: Config, observer: ProgressObserver | None = None) -> int:
    """The daemon in the foreground, until SIGTERM or SIGINT. Returns the exit code."""
    began = time.monotonic()
    inbox, stragglers = listen(), Stragglers()
    signal.signal(signal.SIGHUP, lambda *_: inbox.reload())
    observer = observer or ProgressObserver()
    with locked_ledger(config, observer.stdout) as ledger, observer:
        following: Config | None = config
        while following is not None:  # SIGHUP gives the next configuration
            daemon = Daemon(following, ledger, began, inbox, stragglers, _limit_exit, observer)
            following = daemon.run()
            began = time.monotonic()
        observer.stopped(ledger.jobs.count_unfinished())
    if stragglers.exist():
        _exit_now(EXIT_OK)  # the interpreter's own end could wait for them
    return EXIT_OK


def _limit_exit(code: int) -> None:
    """End the process soon, whatever call to a disk still holds the main thread then."""
    limit = threading.Timer(LAST_SECONDS, _exit_now, [code])
    limit.daemon = True
    limit.start()


def _exit_now(code: int) -> None:
    with suppress(OSError, ValueError):
        sys.stdout.flush()
    os._exit(code)


class Daemon:
    """The daemon with one configuration."""

    def __init__(
        self,
        config: Config,
        ledger: Ledger,
        began: float,
        inbox: Inbox,
        stragglers: Stragglers | None = None,
        on_end: Callable[[int], None] = lambda _: None,
        observer: ProgressObserver | None = None,
    ) -> None:
        self._config = config
        self._began = began
        self._inbox = inbox
        self._on_end = on_end
        self._is_ready = False
        self._control: Server | None = None
        self._ledger_check = LedgerCheck(ledger)
        self._app = App(
            config, ledger, inbox, patient=True, observer=observer, stragglers=stragglers
        )
        self._stdout = observer.stdout if observer else None
        self._handler = RequestHandler(
            config,
            ledger,
            self._app.archive,
            self._app.log,
            self._app.move_tracker,
            self._app.look,
            self._app.context.stopping.is_set,
            lambda: self._app.root_states.closed,
            self._app.latest_steps.get,
        )

    def run(self) -> Config | None:
        """Run until a signal. Returns the configuration after a reload, None after a stop."""
        app = self._app
        try:
            app.start()
            following = self._loop()
            if following is not None and not self._end_jobs():
                return None
            return following
        finally:
            if self._control is not None:
                self._control.stop()
            app.close()

    def _loop(self) -> Config | None:
        app = self._app
        while True:
            self._require_ledger()
            is_well = app.is_well
            if not self._is_ready and app.has_started:
                self._become_ready()
            if not self._is_ready:
                app.pulse.progress()
            elif is_well:
                app.pulse.beat(time.monotonic())
            message = app.next(math.inf)
            if isinstance(message, Stop):
                self._report_stop(message)
                return None
            if isinstance(message, Reload) and (following := self._reload()) is not None:
                return following

    def _become_ready(self) -> None:
        """Each folder was scanned, or is degraded."""
        self._is_ready = True
        self._control = Server(self._config.state.path, self._handle_request, self._app.log)
        self._control.start()
        self._report_ready()

    def _report_ready(self) -> None:
        notify("READY=1")
        self._app.log(
            DaemonReady(
                watches=[w.name for w in self._config.watch],
                queued=self._app.ledger.jobs.count_unfinished(),
                seconds=round(time.monotonic() - self._began, 4),
            )
        )

    def _report_stop(self, message: Stop) -> None:
        self._on_end(EXIT_OK)
        log.emit(DaemonStopping(signal=signal.Signals(message.number).name))
        notify("STOPPING=1")

    def _require_ledger(self) -> None:
        """Raises StorageError, which ends lensd, when the open ledger has lost its name."""
        try:
            self._ledger_check.require_in_place(time.monotonic())
        except StorageError as fault:
            self._on_end(fault.exit_code)
            path, reason = self._config.state.path, DegradedReason.IO_ERROR
            self._app.log(DaemonDegraded(watch=None, path=path, reason=reason, message=str(fault)))
            raise

    def _end_jobs(self) -> bool:
        """Before a reload: wait until the job thread ends, however long its request takes.

        Two job threads would change the same files at once. But a thread that a folder holds is
        left, as in `AnswerWatch`. False: a signal asks lensd to stop instead.
        """
        app = self._app
        while not app.job_thread.finish(PATIENCE_SECONDS):
            app.pulse.progress()
            if app.job_thread.is_held(app.root_states.hanging):
                break
            message = app.next(time.monotonic())
            if isinstance(message, Stop):
                self._report_stop(message)
                return False
        return True

    def _reload(self) -> Config | None:
        """The new configuration; None if it has faults or is the same: the old one stays in use."""
        notify_reloading()
        began = time.monotonic()
        try:
            found = load_in_time(self._config.source, self._load, lambda: self._inbox.has_stop)
            log.configure(found.log.path, found.log.level, found.log.mode_bits, self._stdout)
        except LensdError as error:
            old = self._config.log
            log.configure(old.path, old.level, old.mode_bits, self._stdout)
            details = getattr(error, "details", str(error))
            message = f"the old configuration stays in use; correct this, then reload: {details}"
            self._app.log(DaemonRefused(config=self._config.source, message=message))
            notify("READY=1")
            return None
        self._app.log(DaemonReloaded(config=found.source))
        if found == self._config:
            if self._is_ready:
                self._began = began
                self._report_ready()
            return None
        return found

    def _load(self) -> Config:
        found = load_for_run(self._config.source, waits=True)
        self._require_same_state(found)
        require_unclaimed(found)
        return found

    def _require_same_state(self, found: Config) -> None:
        if os.path.realpath(found.state.path) != os.path.realpath(self._config.state.path):
            raise ConfigError(
                f"state.path: {found.state.path} is another state folder, which a reload cannot "
                "change; restart lensd"
            )

    def _handle_request(self, request: Request, send: Send) -> int:
        """A request from the control socket, in a thread of its own."""
        if not isinstance(request, FileRequest):
            return self._handler.handle(request, send)
        self._require_answers(request)
        jobs = self._app.job_thread

        def send_if_current(message: ToPerson) -> None:
            jobs.require_current()
            send(message)

        return jobs.submit(lambda: self._handler.handle(request, send_if_current)).result()

    def _require_answers(self, request: Request) -> None:
        """Raises LensdError for a request that would wait for a folder that does not answer."""
        paths = request.paths if isinstance(request, RestoreRequest) else ()
        for folder in self._app.root_states.hanging:
            is_needed = folder == self._app.archive.root or not paths
            if is_needed or any(is_below(path, folder) for path in paths):
                raise LensdError(
                    f"the filesystem of {folder} does not answer; run the command again when it "
                    "does (`lensd status` shows that)"
                )
