"""`lensd run`: the daemon, in the foreground."""

from __future__ import annotations

import click

from lensd.cli.options import config_option


@click.command()
@config_option
def run(config: str | None) -> int:
    """Watch the folders and compress new LoRA files, until SIGTERM or ^C.

    Files that are in a folder when lensd first sees it stay as they are (`existing: leave`);
    `lensd once` compresses them. The log goes to stdout or to `log.path`, one JSON object per
    line.

    \b
    lensd run                          in this terminal, with ./config.yaml
    lensd run -c /etc/lensd/nas.yaml   with another configuration
    systemctl reload lensd             read the configuration again

    `lensd service` prints what systemd needs to start it at boot.
    """
    from lensd.config.load import find_config, load_for_run, load_in_time
    from lensd.daemon import loop

    path = find_config(config)
    return loop.run(load_in_time(path, lambda: load_for_run(path, waits=True)))
