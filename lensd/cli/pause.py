"""`lensd pause`: begin no new job for a while."""

from __future__ import annotations

import click

from lensd.cli.asking import ask
from lensd.cli.options import config_option
from lensd.config.reading import find_config, load
from lensd.store.paths import place


@click.command()
@config_option
@click.argument("paths", nargs=-1, type=click.Path())
def pause(config: str | None, paths: tuple[str, ...]) -> int:
    """Begin no new job until `lensd resume`, also after a restart.

    PATHS are files or folders inside the watched folders; without them everything pauses. What
    arrives meanwhile is queued, and a job under way is finished.
    """
    return ask(load(find_config(config)), "pause", paths=[place(p) for p in paths])
