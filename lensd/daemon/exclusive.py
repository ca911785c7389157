"""The state folder and the watched folders, for one lensd at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from lensd import __version__
from lensd.config.model import Config
from lensd.jobs.archive_check import has_originals
from lensd.logs import log
from lensd.logs.events import DaemonStarted
from lensd.logs.sinks import Sink
from lensd.store.deadline import answers
from lensd.store.ledger import Ledger
from lensd.store.locks import Claims, StateLock


@contextmanager
def locked_ledger(config: Config, stdout: Sink | None = None) -> Iterator[Ledger]:
    """Lock the state folder, send the log where the configuration says, and open the ledger.

    `stdout` takes the place of stdout for the log. Raises LockedError, StorageError.
    """
    log.configure(config.log.path, config.log.level, config.log.mode_bits, stdout)
    with StateLock(config.state.path):
        ledger = Ledger(config.state.path, __version__)
        try:
            if not has_originals(os.path.realpath(config.archive.path), ledger):
                os.makedirs(config.archive.path, mode=0o750, exist_ok=True)
            require_unclaimed(config)
            log.emit(DaemonStarted(version=__version__, pid=os.getpid(), config=config.source))
            yield ledger
        finally:
            ledger.close()


def require_unclaimed(config: Config) -> None:
    """Raises LockedError when another lensd watches one of the folders."""
    with Claims() as claims:
        for watch in config.watch:
            # one that is not there, or hangs, is claimed by the root monitor on its return
            if answers(watch.root):
                with suppress(OSError):
                    claims.claim(watch.root)
