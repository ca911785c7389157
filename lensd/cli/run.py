"""`lensd run`: the daemon, in the foreground."""

from __future__ import annotations

import click

from lensd import daemon
from lensd.cli.options import config_option
from lensd.config.reading import find_config, load_for_run


@click.command()
@config_option
def run(config: str | None) -> int:
    """Watch the folders and compress what arrives, until SIGTERM or ^C.

    One JSON object a line goes to stdout, or to `log.path`.
    """
    return daemon.run(load_for_run(find_config(config), waits=True))
