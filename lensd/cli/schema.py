"""`lensd schema`: print the JSON Schema of lensd's output."""

from __future__ import annotations

import json

import click

from lensd.report import schema as schemas


@click.command()
@click.argument("name", type=click.Choice(["log", *schemas.OUTPUTS]))
def schema(name: str) -> None:
    """Print the JSON Schema of a log line, or of the --json output of a command.

    \b
    lensd schema log > events.schema.json
    lensd schema status

    For the configuration, use `lensd config schema`.
    """
    found = schemas.load() if name == "log" else schemas.of_output(name)
    click.echo(json.dumps(found, indent=2))
