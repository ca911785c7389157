"""`lensd config`: print an example configuration, or the JSON Schema."""

from __future__ import annotations

import json

import click

from lensd.cli import Group


@click.group(cls=Group)
def config() -> None:
    """Print an example configuration, or the JSON Schema.

    \b
    lensd config example > config.yaml   then enter your folders
    lensd config schema > lensd.json     for editors that complete and check YAML
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
