"""`lensd retry`: files that failed or were quarantined get another chance."""

from __future__ import annotations

import os

import click

from lensd import __version__
from lensd.cli import say
from lensd.cli.options import config_option
from lensd.config.reading import find_config, load
from lensd.errors import UsageError
from lensd.store.entry import Entry
from lensd.store.ledger import Ledger
from lensd.store.lock import StateLock


@click.command()
@config_option
@click.argument("paths", nargs=-1, type=click.Path())
def retry(config: str | None, paths: tuple[str, ...]) -> int:
    """Give files that failed or were quarantined another chance.

    Without PATHS all of them. The daemon takes them up at its next start.
    """
    found = load(find_config(config))
    with StateLock(found.state.path):
        ledger = Ledger(found.state.path, __version__)
        try:
            chosen = _choose(ledger.with_outcome("failed", "quarantined"), paths)
            ledger.release(chosen)
        finally:
            ledger.close()
    say(f"{len(chosen)} files will be tried again when lensd runs")
    return 0


def _choose(entries: list[Entry], paths: tuple[str, ...]) -> list[Entry]:
    if not paths:
        return entries
    wanted = {
        os.path.join(os.path.realpath(os.path.dirname(os.path.abspath(p))), os.path.basename(p)): p
        for p in paths
    }
    chosen = [e for e in entries if e.full_path in wanted]
    unknown = wanted.keys() - {e.full_path for e in chosen}
    if unknown:
        path = wanted[min(unknown)]
        raise UsageError(f"{path} neither failed nor is it quarantined; `lensd status` lists those")
    return chosen
