"""`lensd config`: what a new configuration starts from, and what editors check it with."""

from __future__ import annotations

import json

import click

from lensd.cli import Group


@click.group(cls=Group)
def config() -> None:
    """Print a commented example, or the JSON Schema.

    \b
    lensd config example > config.yaml   then name your folders, and `lensd check`
    lensd config schema > lensd.json     editors complete and check YAML by it
    """


@config.command()
def example() -> None:
    """Print a complete, commented configuration with the defaults."""
    from lensd.config import example as start

    click.echo(start.example(), nl=False)


@config.command()
def schema() -> None:
    """Print the JSON Schema of the configuration, for editors."""
    from lensd.config import example as start

    click.echo(json.dumps(start.schema(), indent=2))
