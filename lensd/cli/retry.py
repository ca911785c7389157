"""`lensd retry`: files that failed or were quarantined get another chance."""

from __future__ import annotations

import click

from lensd.cli.asking import ask
from lensd.cli.options import config_option
from lensd.config.reading import find_config, load
from lensd.store.paths import place


@click.command()
@config_option
@click.argument("paths", nargs=-1, type=click.Path())
def retry(config: str | None, paths: tuple[str, ...]) -> int:
    """Give files that failed or were quarantined another chance.

    Without PATHS all of them; a folder stands for all in it. A daemon that runs takes them up at
    once, one that does not at its next start.
    """
    return ask(load(find_config(config)), "retry", paths=[place(p) for p in paths])
