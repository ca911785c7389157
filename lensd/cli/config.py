"""`lensd config`: print an example configuration, its JSON Schema, or the format of the log."""

from __future__ import annotations

import json

import click

from lensd.cli import Group


@click.group(cls=Group)
def config() -> None:
    """Print an example configuration, its JSON Schema, or a format for lnav.

    \b
    lensd config example > config.yaml   then enter your folders
    lensd config schema > lensd.json     for editors that complete and check YAML
    lensd config lnav > lensd_log.json   then: lnav -i lensd_log.json
    """


@config.command()
def example() -> None:
    """Print a configuration with all keys, their defaults and comments."""
    from lensd.config import example as source

    click.echo(source.example(), nl=False)


@config.command()
def schema() -> None:
    """Print the JSON Schema of the configuration, for editors."""
    from lensd.config import example as source

    click.echo(json.dumps(source.schema(), indent=2))


@config.command()
def lnav() -> None:
    """Print the format of the log for lnav, a viewer of logs."""
    from lensd.logs.lnav import lnav_format

    click.echo(json.dumps(lnav_format(), indent=2))
