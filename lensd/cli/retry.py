"""`lensd retry`: files that failed or were quarantined get another chance."""

from __future__ import annotations

import click

from lensd.cli.options import LORA_OR_FOLDER, config_option, load_config
from lensd.store.paths import resolve_path


@click.command()
@config_option
@click.argument("paths", nargs=-1, type=LORA_OR_FOLDER)
def retry(config: str | None, paths: tuple[str, ...]) -> int:
    """Give files that failed or were quarantined another chance.

    Without PATHS all of them; a folder stands for all in it. A daemon that runs takes them up at
    once, one that does not at its next start.

    \b
    lensd status                               which ones, and why
    lensd retry                                all of them
    lensd retry /srv/loras/style.safetensors   one
    """
    from lensd.cli.client import ask

    return ask(load_config(config), "retry", paths=[resolve_path(p) for p in paths])
