"""`lensd resume`: end a pause of the job queue."""

from __future__ import annotations

import click

from lensd.cli.options import LORA_OR_FOLDER, config_option, load_named


@click.command()
@config_option
@click.argument("paths", nargs=-1, type=LORA_OR_FOLDER)
def resume(config: str | None, paths: tuple[str, ...]) -> int:
    """End a pause of the job queue.

    PATHS are those that were given to `lensd pause`, and that `lensd status`
    lists; without them every pause ends.

    \b
    lensd resume                     end every pause
    lensd resume /srv/loras/import   end the pause of this folder
    """
    from lensd.cli.client import handle_request
    from lensd.daemon.control_messages import ResumeRequest

    found, named = load_named(config, paths)
    return handle_request(found, ResumeRequest(paths=named))
