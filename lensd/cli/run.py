"""`lensd run`: the daemon, in the foreground."""

from __future__ import annotations

import click

from lensd.cli.options import config_option, verbose_option


@click.command()
@config_option
@verbose_option
def run(config: str | None, *, verbose: bool) -> int:
    """Watch the folders and compress new LoRA files, until SIGTERM or ^C.

    Files that are in a folder when lensd first sees it stay as they are (`existing: leave`);
    `lensd once` compresses them. At a terminal, lensd prints one line per file, and what waits and
    why. The log goes to `log.path`, or without it to a pipe or the journal, one JSON object per
    line.

    \b
    lensd run                          in this terminal, with ./config.yaml
    lensd run -c /etc/lensd/nas.yaml   with another configuration
    systemctl reload lensd             read the configuration again

    `lensd service` prints what systemd needs to start it at boot.
    """
    from lensd.cli.views.terminal import share_a_terminal
    from lensd.config.load import find_config, load_for_run, load_in_time
    from lensd.daemon import loop

    path = find_config(config)
    found = load_in_time(path, lambda: load_for_run(path, waits=True))
    if not share_a_terminal():
        return loop.run(found)
    from lensd.cli.views.run_screen import RunScreen

    return loop.run(found, RunScreen(found, verbose=verbose))
