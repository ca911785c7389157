"""`lensd resume`: go on after `lensd pause`."""

from __future__ import annotations

import click

from lensd.cli.asking import ask
from lensd.cli.options import config_option
from lensd.config.reading import find_config, load
from lensd.store.paths import place


@click.command()
@config_option
@click.argument("paths", nargs=-1, type=click.Path())
def resume(config: str | None, paths: tuple[str, ...]) -> int:
    """Go on after `lensd pause`.

    Without PATHS every pause ends; with them only those of exactly these paths.
    """
    return ask(load(find_config(config)), "resume", paths=[place(p) for p in paths])
