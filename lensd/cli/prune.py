"""`lensd prune`: delete archived originals that may go."""

from __future__ import annotations

import os

import click

from lensd.cli.options import LORA_OR_FOLDER, config_option, find_named, load_config


@click.command()
@config_option
@click.argument("paths", nargs=-1, type=LORA_OR_FOLDER)
@click.option("--deleted", is_flag=True, help="Delete the originals of files that you deleted.")
@click.option("--dry-run", is_flag=True, help="Print what would be deleted; change nothing.")
def prune(config: str | None, paths: tuple[str, ...], *, deleted: bool, dry_run: bool) -> int:
    """Delete archived originals that may go. A deleted original cannot be restored.

    Without PATHS these are the originals that `archive.keep_days` and `archive.max_size` do not
    keep. PATHS are files, folders or patterns (in quotes) in the watched folders, whose originals
    go at once. An original is deleted only if its compressed file is there and undamaged: lensd
    reads that file again first. With --deleted it is the reverse: only originals go whose files
    you deleted. Originals that stay are listed with the reason.

    \b
    lensd prune --dry-run                list what would be deleted
    lensd prune                          delete them; the daemon does so daily
    lensd prune loras/style.safetensors  delete one original
    lensd prune --deleted                delete those whose file you deleted
    """
    from lensd.cli.client import handle_request, read_only_handler
    from lensd.daemon.control_messages import PruneRequest

    found = load_config(config)
    named = tuple(map(os.path.abspath, find_named(found, paths)))
    request = PruneRequest(dry_run=dry_run, paths=named, deleted=deleted)
    if not dry_run:
        return handle_request(found, request)
    from lensd.cli.views.file_lines import ShortPaths
    from lensd.cli.views.terminal import console, is_for_people

    short, width = ShortPaths.of(found.watch), console().width
    with read_only_handler(found) as handler:
        return handler.prune(
            request,
            lambda m: click.echo(short.fit(m.say, width) if is_for_people() else m.say),
        )
