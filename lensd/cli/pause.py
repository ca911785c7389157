"""`lensd pause`: begin no new job for a while."""

from __future__ import annotations

import click

from lensd.cli.options import LORA_OR_FOLDER, config_option, load_config
from lensd.store.paths import resolve_path


@click.command()
@config_option
@click.argument("paths", nargs=-1, type=LORA_OR_FOLDER)
def pause(config: str | None, paths: tuple[str, ...]) -> int:
    """Begin no new job until `lensd resume`, also after a restart.

    PATHS are files or folders inside the watched folders; without them everything pauses. What
    arrives meanwhile is queued, and a job under way is finished.

    \b
    lensd pause                     e.g. while the machine is needed for images
    lensd pause /srv/loras/import   one folder, until all of it has been sorted
    """
    from lensd.cli.client import ask

    return ask(load_config(config), "pause", paths=[resolve_path(p) for p in paths])
