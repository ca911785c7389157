"""`lensd config`: what a new configuration starts from, and what editors check it with."""

from __future__ import annotations

import json

import click

from lensd.config import example as start


@click.group()
def config() -> None:
    """Print a commented example, or the JSON Schema."""


@config.command()
def example() -> None:
    """Print a complete, commented configuration with the defaults."""
    click.echo(start.example(), nl=False)


@config.command()
def schema() -> None:
    """Print the JSON Schema of the configuration, for editors."""
    click.echo(json.dumps(start.schema(), indent=2))
