"""`lensd service`: print the systemd drop-in that a configuration needs, or install the service."""

from __future__ import annotations

import click

from lensd.cli import say
from lensd.cli.options import config_option, load_config
from lensd.text import visible


@click.command()
@config_option
@click.option("--install", is_flag=True, help="Install and start the service, as root.")
def service(config: str | None, *, install: bool) -> int:
    """Print the systemd drop-in that this configuration needs; change nothing.

    The drop-in sets user, folders, disks, devices and capabilities, and gives a reason for each.
    Its first lines say where to save it. With --install, lensd writes it, the unit and the files
    for user and folders to /etc, and starts the service now and at each boot.

    \b
    lensd service -c /etc/lensd/config.yaml
    sudo lensd service --install -c /etc/lensd/config.yaml
    """
    from lensd.systemd import install as installation
    from lensd.systemd.dropin import drop_in, unreachable
    from lensd.systemd.facts import probe

    found = load_config(config)
    facts = probe(found)
    if install:
        for step in installation.install(found, facts):
            click.echo(visible(step))
        return 0
    click.echo(drop_in(found, facts), nl=False)
    warning = unreachable(facts)
    if warning:
        say(f"warning: {warning}")
    return 0
