"""A verb that changes something: done by the running daemon, or here when none runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from lensd import __version__
from lensd.cli import say
from lensd.config.model import Config
from lensd.daemon import control, requests
from lensd.errors import LockedError
from lensd.logs import log
from lensd.logs.sinks import Sink
from lensd.store.archive import Archive
from lensd.store.ledger import Ledger
from lensd.store.locks import StateLock


def ask(
    config: Config,
    verb: str,
    tell: Callable[[str], None] = say,
    stdout: Sink | None = None,
    **arguments: Any,
) -> int:
    """Have it done; returns the exit code. Raises LensdError.

    `tell` hears what there is to say to a person; `stdout` takes the log where stdout would.
    """
    try:
        lock = StateLock(config.state.path)
    except LockedError:
        return control.ask(config.state.path, verb, arguments, tell)
    with lock:
        log.configure(config.log.path, config.log.level, config.log.mode_bits, stdout)
        ledger = Ledger(config.state.path, __version__)
        try:
            archive = Archive(os.path.realpath(config.archive.path))
            here = requests.RequestHandler(config, ledger, archive, log.emit)
            return requests.serve(here, verb, arguments, tell)
        finally:
            ledger.close()
