"""Requests that change something: the running daemon handles them, or this process without one."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress

import click

from lensd import __version__
from lensd.cli import say
from lensd.config.model import Config
from lensd.daemon import control
from lensd.daemon.control_messages import Message, Request
from lensd.daemon.requests import RequestHandler
from lensd.errors import DiskUnavailable, LockedError
from lensd.jobs.gone_files import GoneFiles
from lensd.logs import log
from lensd.logs.events import Level
from lensd.logs.sinks import NullSink
from lensd.store.archive import Archive
from lensd.store.lease import block_lease_signal
from lensd.store.ledger import Ledger, exists
from lensd.store.locks import StateLock
from lensd.text import visible
from lensd.watcher.move_tracker import MoveTracker


def say_messages(config: Config) -> control.Send:
    """Prints the messages of a handler on stderr; a terminal gets short paths."""
    if not sys.stderr.isatty():
        return lambda message: say(message.say)
    from lensd.cli.views.file_lines import ShortPaths
    from lensd.cli.views.terminal import console

    paths, width = ShortPaths.of(config.watch), console(stderr=True).width
    return lambda message: click.echo(paths.fit(f"lensd: {message.say}", width), err=True)


def handle_request(
    config: Config,
    request: Request,
    receive: control.Send | None = None,
) -> int:
    """Returns the exit code. Raises LensdError.

    `receive` gets the messages for the person; by default they are printed. Without `log.path`
    these take the place of the log, whose warnings become messages.
    """
    receive = receive or say_messages(config)
    try:
        lock = StateLock(config.state.path)
    except LockedError:
        return control.send_request(config.state.path, request, receive)
    with lock:
        log.configure(config.log.path, config.log.level, config.log.mode_bits, _Warnings(receive))
        with _open_handler(config, readonly=False) as handler:
            return handler.handle(request, receive)


def note_deleted(config: Config) -> None:
    """Leave what a person deleted out of the totals; a running daemon does that by itself."""
    if not exists(config.state.path):
        return
    with suppress(LockedError, DiskUnavailable), StateLock(config.state.path):
        log.configure(config.log.path, config.log.level, config.log.mode_bits, NullSink())
        with _open_handler(config, readonly=False) as handler:
            GoneFiles(handler.ledger, handler.archive, handler.log).look()


class _Warnings:
    """Takes the lines of the log in place of stdout."""

    def __init__(self, receive: control.Send) -> None:
        self._receive = receive

    def write(self, line: bytes) -> None:
        fields = json.loads(line)
        if fields["level"] != Level.INFO:
            self._receive(Message(visible(f"{fields['event']}: {fields.get('message', '')}")))


def read_only_handler(config: Config) -> AbstractContextManager[RequestHandler]:
    """A handler for what changes nothing, which works while a daemon runs. Raises StorageError."""
    return _open_handler(config, readonly=True)


@contextmanager
def _open_handler(config: Config, *, readonly: bool) -> Iterator[RequestHandler]:
    block_lease_signal()
    with closing(Ledger(config.state.path, __version__, readonly=readonly)) as ledger:
        archive = Archive(
            os.path.realpath(config.archive.path), {w.name: w.root for w in config.watch}
        )
        move_tracker = MoveTracker(config.watch, ledger, archive, log.emit)
        yield RequestHandler(config, ledger, archive, log.emit, move_tracker)
