"""`lensd service`: the drop-in for systemd that a configuration needs."""

from __future__ import annotations

import click

from lensd.cli import say
from lensd.cli.options import config_option, load_config


@click.command()
@config_option
def service(config: str | None) -> int:
    """Print the drop-in of systemd's unit that this configuration needs; change nothing.

    User, folders, disks, devices and capabilities, each with its reason. Its first lines say where
    it goes.

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
