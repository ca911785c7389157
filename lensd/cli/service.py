"""`lensd service`: print the systemd drop-in that a configuration needs, or install the service."""

from __future__ import annotations

from typing import Literal

import click

from lensd.cli import say
from lensd.cli.options import config_option, load_config
from lensd.text import visible


@click.command()
@config_option
@click.option(
    "--unit",
    type=click.Choice(["lensd", "notify", "web"]),
    default="lensd",
    help="Of lensd.service (and lensd-notify.service), or of one of the others.",
)
@click.option("--install", is_flag=True, help="Install and start the service, as root.")
def service(config: str | None, *, unit: Literal["lensd", "notify", "web"], install: bool) -> int:
    """Print the systemd drop-in that this configuration needs; change nothing.

    The drop-in sets user, folders, disks, devices and capabilities, and gives a reason for each.
    Its first lines say where to save it. With --install, lensd writes it, the unit and the files
    for user and folders to /etc, and starts the service now and at each boot; with recipients
    under `notify`, also lensd-notify.service, since lensd.service may not use the network. With
    --unit web it installs lensd-web.service, which serves the live page.

    \b
    lensd service -c /etc/lensd/config.yaml
    sudo lensd service --install -c /etc/lensd/config.yaml
    sudo lensd service --install --unit web
    """
    from lensd.cli.web import require_packages
    from lensd.systemd import install as installation
    from lensd.systemd.dropin import drop_in, side_drop_in, unreachable
    from lensd.systemd.facts import probe

    found = load_config(config)
    facts = probe(found)
    if install:
        if unit == "web":
            require_packages()
        steps = installation.install_web if unit == "web" else installation.install
        for step in steps(found, facts):
            click.echo(visible(step))
        return 0
    text = drop_in(found, facts) if unit == "lensd" else side_drop_in(unit, found, facts)
    click.echo(text, nl=False)
    warning = unreachable(facts)
    if warning:
        say(f"warning: {warning}")
    return 0
