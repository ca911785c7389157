"""A verb that changes something: done by the running daemon, or here when none runs."""

from __future__ import annotations

import os
from typing import Any

from lensd import __version__, control, desk
from lensd.cli import say
from lensd.config.models import Config
from lensd.errors import LockedError
from lensd.report import log
from lensd.store.archive import Archive
from lensd.store.ledger import Ledger
from lensd.store.lock import StateLock


def ask(config: Config, verb: str, **arguments: Any) -> int:
    """Have it done; returns the exit code. Raises LensdError."""
    try:
        lock = StateLock(config.state.path)
    except LockedError:
        return control.ask(config.state.path, verb, arguments, say)
    with lock:
        log.configure(config.log.path, config.log.level, config.log.mode_bits)
        ledger = Ledger(config.state.path, __version__)
        try:
            archive = Archive(os.path.realpath(config.archive.path))
            here = desk.Desk(config, ledger, archive, log.get().info)
            return desk.serve(here, verb, arguments, say)
        finally:
            ledger.close()
