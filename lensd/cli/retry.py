"""`lensd retry`: try failed and quarantined files again."""

from __future__ import annotations

import click

from lensd.cli.options import LORA_OR_FOLDER, config_option, load_named


@click.command()
@config_option
@click.argument("paths", nargs=-1, type=LORA_OR_FOLDER)
def retry(config: str | None, paths: tuple[str, ...]) -> int:
    """Try failed and quarantined files again.

    PATHS are files or folders; without them all failed and quarantined files are tried again. A
    running daemon tries them now, otherwise the next start does. Files that wait for their next
    attempt after a disk error are tried now, too.

    \b
    lensd status                               lists the files, with the reasons
    lensd retry                                all of them
    lensd retry /srv/loras/style.safetensors   one file
    """
    from lensd.cli.client import handle_request
    from lensd.daemon.control_messages import RetryRequest

    found, named = load_named(config, paths)
    return handle_request(found, RetryRequest(paths=named))
