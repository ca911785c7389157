"""`lensd schema`: what programs that read lensd's output can check it with."""

from __future__ import annotations

import json

import click

from lensd.report import schema as schemas


@click.command()
@click.argument("name", type=click.Choice(["log", *schemas.OUTPUTS]))
def schema(name: str) -> None:
    """Print the JSON Schema of the log's lines, or of what a command prints with --json.

    \b
    lensd schema log > events.schema.json
    lensd schema status

    That of the configuration: `lensd config schema`.
    """
    found = schemas.load() if name == "log" else schemas.of_output(name)
    click.echo(json.dumps(found, indent=2))
