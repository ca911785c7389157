"""`lensd resume`: go on after `lensd pause`."""

from __future__ import annotations

import click

from lensd.cli.options import LORA_OR_FOLDER, config_option, load_config
from lensd.store.paths import resolve_path


@click.command()
@config_option
@click.argument("paths", nargs=-1, type=LORA_OR_FOLDER)
def resume(config: str | None, paths: tuple[str, ...]) -> int:
    """Go on after `lensd pause`.

    Without PATHS every pause ends; with them only those of exactly these paths.

    \b
    lensd resume                     every pause ends
    lensd resume /srv/loras/import   that of this folder (see `lensd status`)
    """
    from lensd.cli.client import ask

    return ask(load_config(config), "resume", paths=[resolve_path(p) for p in paths])
