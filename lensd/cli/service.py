"""`lensd service`: print the systemd drop-in that a configuration needs."""

from __future__ import annotations

import click

from lensd.cli import say
from lensd.cli.options import config_option, load_config


@click.command()
@config_option
def service(config: str | None) -> int:
    """Print the systemd drop-in that this configuration needs; change nothing.

    The drop-in sets user, folders, disks, devices and capabilities, and gives a reason for each.
    Its first lines say where to save it.

    \b
    lensd service -c /etc/lensd/config.yaml
    """
    from lensd.systemd.dropin import drop_in, unreachable
    from lensd.systemd.facts import probe

    found = load_config(config)
    facts = probe(found)
    click.echo(drop_in(found, facts), nl=False)
    warning = unreachable(facts)
    if warning:
        say(f"warning: {warning}")
    return 0
