"""`lensd pause`: pause the job queue."""

from __future__ import annotations

import click

from lensd.cli.options import LORA_OR_FOLDER, config_option, load_named


@click.command()
@config_option
@click.argument("paths", nargs=-1, type=LORA_OR_FOLDER)
def pause(config: str | None, paths: tuple[str, ...]) -> int:
    """Pause the job queue until `lensd resume`, also across restarts.

    PATHS are files or folders in the watched folders; without them all jobs pause. The running job
    is finished. Files that arrive during the pause are queued.

    \b
    lensd pause                     e.g. while you need the machine for images
    lensd pause /srv/loras/import   one folder, e.g. to sort its files
    """
    from lensd.cli.client import handle_request
    from lensd.daemon.control_messages import PauseRequest

    found, named = load_named(config, paths)
    return handle_request(found, PauseRequest(paths=named))
