"""The daemon's main loop: it watches folders, handles requests and reloads the configuration."""

from __future__ import annotations

import math
import os
import signal
import time

from lensd.config.load import load_for_run
from lensd.config.model import Config
from lensd.daemon.app import PATIENCE_SECONDS, App
from lensd.daemon.control import Send, Server
from lensd.daemon.control_messages import FileRequest, Request
from lensd.daemon.exclusive import locked_ledger, require_unclaimed
from lensd.daemon.inbox import (
    EventsLost,
    Inbox,
    Look,
    Message,
    NewFolder,
    Reload,
    RootChanged,
    RootRepaired,
    Stop,
    listen,
)
from lensd.daemon.requests import RequestHandler
from lensd.daemon.systemd_notify import notify, notify_reloading
from lensd.errors import EXIT_OK, ConfigError, DegradedReason, LensdError, StorageError
from lensd.logs import log
from lensd.logs.events import (
    DaemonDegraded,
    DaemonReady,
    DaemonRecovered,
    DaemonRefused,
    DaemonReloaded,
    DaemonStopping,
)
from lensd.store.ledger import Ledger

LEDGER_CHECK_SECONDS = 5.0
LEDGER_RETRY_SECONDS = 10.0  # from a failed write of the ledger to the next scan


def run(config: Config) -> int:
    """The daemon in the foreground, until SIGTERM or SIGINT. Returns the exit code."""
    began = time.monotonic()
    inbox = listen()
    signal.signal(signal.SIGHUP, lambda *_: inbox.put(Reload()))
    with locked_ledger(config) as ledger:
        following: Config | None = config
        while following is not None:  # SIGHUP gives the next configuration
            following = Daemon(following, ledger, began, inbox).run()
            began = time.monotonic()
    return EXIT_OK


def _report_stop(message: Stop) -> None:
    log.emit(DaemonStopping(signal=signal.Signals(message.number).name))
    notify("STOPPING=1")


class Daemon:
    """The daemon with one configuration."""

    def __init__(self, config: Config, ledger: Ledger, began: float, inbox: Inbox) -> None:
        self._config = config
        self._began = began
        self._app = App(config, ledger, inbox, patient=True)
        self._handler = RequestHandler(
            config,
            ledger,
            self._app.archive,
            self._app.log,
            self._app.move_tracker,
            self._app.look,
            self._app.context.stopping.is_set,
        )
        self._ledger_fault: StorageError | None = None
        self._retry_ledger_at = -math.inf
        self._check_ledger_at = -math.inf

    def run(self) -> Config | None:
        """Run until a signal. Returns the configuration after a reload, None after a stop."""
        app = self._app
        control = Server(self._config.state.path, self._handle_request, app.log)
        try:
            app.ledger.state.disk_backoff.clear()
            app.root_monitor.start()  # before the first scan, so that no change is missed
            app.prepare()
            app.check_folders(time.monotonic())
            app.job_thread.start()
            app.job_thread.wake()
            control.start()
            self._report_ready()
            following = self._loop()
            if following is not None and not self._end_jobs():
                return None
            return following
        finally:
            control.stop()
            app.close()

    def _report_ready(self) -> None:
        notify("READY=1")
        log.emit(
            DaemonReady(
                watches=[w.name for w in self._config.watch],
                queued=self._app.ledger.jobs.count_unfinished(),
                seconds=round(time.monotonic() - self._began, 4),
            )
        )

    def _loop(self) -> Config | None:
        app = self._app
        while app.job_thread.error is None:
            self._require_ledger(time.monotonic())
            if app.root_monitor.alive and app.context.worker.is_fresh(time.monotonic()):
                app.pulse.beat(time.monotonic())
            message = app.next(min(app.root_monitor.next_due(), app.intake.next_due() or math.inf))
            if isinstance(message, Stop):
                _report_stop(message)
                return None
            if isinstance(message, Reload):
                if (following := self._reload()) is not None:
                    return following
                continue
            self._handle_message(message)
        raise app.job_thread.error

    def _require_ledger(self, now: float) -> None:
        """Raises StorageError, which ends lensd, when the open ledger has lost its name."""
        if now < self._check_ledger_at:
            return
        self._check_ledger_at = now + LEDGER_CHECK_SECONDS
        try:
            self._app.ledger.require_in_place()
        except StorageError as fault:
            path, reason = self._config.state.path, DegradedReason.IO_ERROR
            log.emit(DaemonDegraded(watch=None, path=path, reason=reason, message=str(fault)))
            raise

    def _end_jobs(self) -> bool:
        """Before a reload: wait until the job thread ends, however long its request takes.

        Two job threads would change files at once. False: a signal asks lensd to stop instead.
        """
        app = self._app
        while not app.job_thread.finish(PATIENCE_SECONDS):
            app.pulse.progress()
            message = app.next(time.monotonic())
            if isinstance(message, Stop):
                _report_stop(message)
                return False
        return True

    def _handle_message(self, message: Message | None) -> None:
        """Follow a hint, and do what is due now."""
        app, now = self._app, time.monotonic()
        try:
            match message:
                case Look(path):
                    app.intake.notice(path, now)
                case NewFolder(root):
                    app.root_monitor.note_new_folder(root, now)
                case EventsLost(root):
                    app.root_monitor.note_lost_events(root)
                case RootChanged():
                    app.root_monitor.check_soon()
                case RootRepaired(root, is_complete):
                    app.take_back(root, is_complete=is_complete)
            app.check_folders(now)
            if app.intake.step(now):
                app.job_thread.wake()
        except StorageError as error:
            # The next scan finds again what the ledger could not record.
            self._retry_ledger_at = now + LEDGER_RETRY_SECONDS
            app.root_monitor.scan_all_after(self._retry_ledger_at)
            self._report_ledger(error)
        else:
            if now >= self._retry_ledger_at:
                self._report_ledger(None)

    def _report_ledger(self, fault: StorageError | None) -> None:
        """Log once that the ledger cannot be written, and once that it can."""
        known, self._ledger_fault = self._ledger_fault, fault
        if (known is None) == (fault is None):
            return
        message = f"{fault}. New files wait until then" if fault else "new files become jobs again"
        kind = DaemonRecovered if fault is None else DaemonDegraded
        log.emit(
            kind(
                watch=None,
                path=self._config.state.path,
                reason=DegradedReason.IO_ERROR,
                message=message,
            )
        )

    def _reload(self) -> Config | None:
        """The new configuration; None if it has faults, and the old one stays in use."""
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
            message = f"the old configuration stays in use; correct this, then reload: {details}"
            log.emit(DaemonRefused(config=self._config.source, message=message))
            notify("READY=1")
            return None
        log.emit(DaemonReloaded(config=found.source))
        return found

    def _require_same_state(self, found: Config) -> None:
        if os.path.realpath(found.state.path) != os.path.realpath(self._config.state.path):
            raise ConfigError(
                f"state.path: {found.state.path} is another state folder, which a reload cannot "
                "change; restart lensd"
            )

    def _handle_request(self, request: Request, send: Send) -> int:
        """A request from the control socket, in a thread of its own."""
        if isinstance(request, FileRequest):
            return self._app.job_thread.submit(lambda: self._handler.handle(request, send)).result()
        return self._handler.handle(request, send)
