"""`lensd once`: lets all files that are there settle together, compresses them, and ends."""

from __future__ import annotations

import math
import os
import signal
import time

from lensd.config.model import Config
from lensd.daemon import select
from lensd.daemon.app import App
from lensd.daemon.exclusive import locked_ledger
from lensd.daemon.inbox import Look, Stop, listen
from lensd.daemon.progress import ProgressObserver
from lensd.errors import EXIT_OK, EXIT_SOME_FAILED
from lensd.logs import log
from lensd.logs.events import DaemonStopping


def once(
    config: Config, *, paths: list[str], redo: bool, observer: ProgressObserver | None = None
) -> int:
    """Process what is there now, then end. Returns the exit code."""
    inbox = listen()
    observer = observer or ProgressObserver()
    with locked_ledger(config, observer.stdout) as ledger:
        app = App(config, ledger, inbox, patient=False, observer=observer)
        app.watch_here()
        is_incomplete = bool(app.root_states.closed)
        app.prepare()
        app.intake.reports_incomplete = False
        observer.begin(_queue_files(app, paths, redo=redo))
        app.job_thread.start()
        try:
            stopped = _run_until_done(app, observer)
        finally:
            app.close()
        if stopped is not None:
            observer.stopped(app.intake.pending + ledger.jobs.count_unfinished())
    if stopped is not None:
        return 128 + stopped
    return EXIT_SOME_FAILED if is_incomplete or app.log.has_failures else EXIT_OK


def _queue_files(app: App, paths: list[str], *, redo: bool) -> dict[str, int]:
    """Take up the chosen files, whatever their outcome was before.

    Returns the bytes of each file by path, with those of the jobs that an earlier run has left.
    """
    app.intake.follow_moved_files()
    app.find_deleted()
    there = app.config.model_copy(update={"watch": app.healthy()})
    chosen = select.choose(there, app.ledger, paths, redo=redo)
    select.queue(chosen, app.ledger)
    now = time.monotonic()
    sizes = {entry.full_path: entry.identity.size for entry in chosen.resumed}
    sizes |= {entry.full_path: entry.bytes_in or 0 for entry in chosen.again}
    for file in chosen.files:
        path = os.path.join(file.watch.root, file.path)
        app.intake.notice(path, now)
        sizes[path] = file.identity.size
    return sizes


def _run_until_done(app: App, observer: ProgressObserver) -> int | None:
    """Returns the number of the signal that ended it early, else None."""
    intake, deadline = app.intake, _deadline(app)
    while app.job_thread.error is None:
        now = time.monotonic()
        if intake.step(now):
            app.job_thread.wake()
        if intake.pending and now > deadline and not intake.may_settle_by_time:
            intake.reject_candidates()
        if not intake.pending and app.is_worked_off():
            return None
        quiet_at = intake.quiet_at()
        if quiet_at is not None and app.job_thread.idle.is_set():
            observer.settling(intake.pending, max(0.0, quiet_at - now))
        message = app.next(intake.next_due() or math.inf)
        if isinstance(message, Stop):
            log.emit(DaemonStopping(signal=signal.Signals(message.number).name))
            return message.number
        if isinstance(message, Look):  # another program wrote to a file during its job
            intake.notice(message.path, time.monotonic())
            deadline = _deadline(app)
    raise app.job_thread.error


def _deadline(app: App) -> float:
    """When to reject the files that are incomplete and do not settle by time alone."""
    return time.monotonic() + app.config.settle.quiet_seconds + 1
