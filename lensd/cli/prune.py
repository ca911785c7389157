"""`lensd prune`: originals that are older than `archive.keep_days` are deleted."""

from __future__ import annotations

import os

import click

from lensd import __version__
from lensd.cli.options import config_option, load_config


@click.command()
@config_option
@click.option("--dry-run", is_flag=True, help="Print what would be deleted, and change nothing.")
def prune(config: str | None, *, dry_run: bool) -> int:
    """Delete archived originals that are older than `archive.keep_days`.

    An original goes only if its compressed file is still there, undamaged: it is read again whole
    before. What stays is named with the reason. A deleted original cannot be restored.

    \b
    lensd prune --dry-run   which originals would go, and which stay
    lensd prune             what the daemon does once a day by itself
    """
    from lensd.cli.client import ask
    from lensd.daemon.requests import RequestHandler
    from lensd.logs import log
    from lensd.store.archive import Archive
    from lensd.store.ledger import Ledger

    found = load_config(config)
    if not dry_run:
        return ask(found, "prune")
    ledger = Ledger(found.state.path, __version__, readonly=True)
    try:
        archive = Archive(os.path.realpath(found.archive.path))
        handler = RequestHandler(found, ledger, archive, log.emit)
        return handler.prune(click.echo, dry_run=True)
    finally:
        ledger.close()
