"""`lensd check`: every fault of the configuration at once, or what it says in short."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from lensd.cli import say
from lensd.cli.options import config_option
from lensd.text import visible, visible_lines

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lensd.config.model import Config, Watch


@click.command()
@config_option
def check(config: str | None) -> int:
    """Find every fault of the configuration at once.

    Prints FILE:LINE: KEY: FAULT, each with its remedy, and ends with 4; without a fault it prints
    what is watched and where the originals go. While lensd runs, a path that its unit or its user
    may not write is a fault too.

    \b
    lensd check                ./config.yaml, or the first of the other places
    lensd check -c nas.yaml    another one
    sudo lensd check           also what the running service may not write
    """
    from lensd.config.faults import FaultyConfigError
    from lensd.config.load import find_config, load_for_run

    path = find_config(config)
    try:
        found = load_for_run(path)
        running = _of_the_running(path, found)
    except FaultyConfigError as error:
        click.echo(visible_lines(error.details))
        say(f"error: {error.summary}")
        return error.exit_code
    for line in (*_summary(path, found), *running):
        click.echo(visible(line))
    return 0


def _of_the_running(path: str, config: Config) -> list[str]:
    """What could not be told. Raises FaultyConfigError for what a running lensd cannot write."""
    from lensd.config.faults import FaultyConfigError
    from lensd.systemd.access import NotAllowed
    from lensd.systemd.unwritable import unwritable

    try:
        faults = unwritable(config)
    except NotAllowed:
        return [
            "note: whether lensd runs and what it then may write, only its user and root see (sudo)"
        ]
    if faults:
        raise FaultyConfigError(path, faults)
    return []


def _summary(path: str, config: Config) -> Iterator[str]:
    from lensd.config.check_paths import folder_warnings

    yield f"{path}: no faults"
    for watch in config.watch:
        yield f"  watch    {_watch_line(watch)}"
    yield f"  archive  {config.archive.path}, originals are kept"
    yield f"  state    {config.state.path}"
    yield f"  log      {config.log.path or 'stdout'}, level {config.log.level}"
    if config.metrics.textfile is not None:
        yield f"  metrics  {config.metrics.textfile}"
    for warning in folder_warnings(config):
        yield f"warning: {warning.render(path)}"


def _watch_line(watch: Watch) -> str:
    place = watch.path if watch.root == watch.path else f"{watch.path} -> {watch.root}"
    old = {"leave": "left alone", "compress": "compressed"}[watch.existing]
    return f"{watch.name}: {place}, mode {watch.settings.mode}; files already there are {old}"
