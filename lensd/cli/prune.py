"""`lensd prune`: delete archived originals that are older than `archive.keep_days`."""

from __future__ import annotations

import click

from lensd.cli.options import config_option, load_config


@click.command()
@config_option
@click.option("--dry-run", is_flag=True, help="Print what would be deleted; change nothing.")
def prune(config: str | None, *, dry_run: bool) -> int:
    """Delete archived originals that are older than `archive.keep_days`.

    An original is deleted only if its compressed file is there and undamaged: lensd reads that
    file again first. Originals that stay are listed with the reason. A deleted original cannot be
    restored.

    \b
    lensd prune --dry-run   list what would be deleted, and what would stay
    lensd prune             delete them now; the daemon does so once a day
    """
    from lensd.cli.client import handle_request, read_only_handler
    from lensd.daemon.control_messages import PruneRequest

    found = load_config(config)
    if not dry_run:
        return handle_request(found, PruneRequest())
    with read_only_handler(found) as handler:
        return handler.prune(PruneRequest(dry_run=True), lambda message: click.echo(message.say))
