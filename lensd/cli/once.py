"""`lensd once`: process what is there now, then exit."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from lensd.cli.options import LORA_OR_FOLDER, config_option
from lensd.text import size, visible

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from lensd.config.model import Config
    from lensd.daemon.estimate import Estimate


@click.command()
@config_option
@click.argument("paths", nargs=-1, type=LORA_OR_FOLDER)
@click.option("--dry-run", is_flag=True, help="Print the plan and change nothing.")
@click.option("--yes", is_flag=True, help="Do not ask, also on a terminal.")
@click.option("--redo", is_flag=True, help="Also what was treated before, from the originals.")
def once(
    config: str | None, paths: tuple[str, ...], dry_run: bool, yes: bool, redo: bool
) -> int:  # fmt: skip
    """Process what is there now, then exit.

    Also treats the files that `existing: leave` left alone. PATHS are files or folders inside the
    watched folders; without them everything is meant.

    \b
    lensd once --dry-run            what would happen, and what it would save
    lensd once /srv/loras/style     one folder
    lensd once --redo               again, from the originals, with other settings
    lensd once --yes > once.log     no question, the log in a file

    On a terminal it shows the plan and asks, then how far it is, and in the end what came of it.
    """
    from lensd.config.load import find_config, load_for_run
    from lensd.daemon import select
    from lensd.daemon.estimate import estimate

    found = load_for_run(find_config(config))
    select.places(found, paths)  # before anything else is done
    ask = sys.stdin.isatty() and not yes
    if dry_run or ask:
        plans = estimate(found, list(paths), redo=redo)
        _show(plans, stderr=not dry_run)
        if dry_run or not any(p.files for p in plans):
            return 0
        click.confirm("Go on?", abort=True, err=True)
    return _process(found, list(paths), redo=redo)


def _process(config: Config, paths: list[str], *, redo: bool) -> int:
    from lensd.daemon.once import once as process

    if not sys.stderr.isatty():
        return process(config, paths=paths, redo=redo)
    from lensd.cli.views.batch_bar import BatchBar

    with BatchBar() as observer:
        return process(config, paths=paths, redo=redo, observer=observer)


def _show(plans: Sequence[Estimate], *, stderr: bool) -> None:
    """One folder a line; a table for a person."""
    from lensd.cli.views.terminal import console, show

    if console(stderr=stderr).is_terminal and any(plan.files for plan in plans):
        free = f"the archive has {size(plans[0].archive_free)} free"
        show(_table(plans), "", f"about: by the headers alone; {free}", stderr=stderr)
    else:
        show(*(visible(describe(plan)) for plan in plans), stderr=stderr)


def _table(plans: Sequence[Estimate]) -> Table:
    from lensd.cli.views.terminal import table

    numbers = ("files", "now", "about", "saves", "archive needs", "takes")
    found = table("folder", "mode", *numbers, numbers=numbers)
    for plan in plans:
        found.add_row(
            visible(plan.watch),
            plan.mode,
            f"{plan.files:,}",
            size(plan.bytes_now),
            size(plan.bytes_then),
            size(plan.bytes_now - plan.bytes_then),
            size(plan.archive_needs),
            _duration(plan.seconds),
        )
    return found


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if minutes < 2 else f"{minutes // 60}:{minutes % 60:02d} h"


def describe(plan: Estimate) -> str:
    """One folder's line."""
    if not plan.files:
        return f"{plan.watch}: nothing to do"
    return (
        f"{plan.watch}: {plan.files} files, {size(plan.bytes_now)} now, about "
        f"{size(plan.bytes_then)} in mode {plan.mode}; the archive needs {size(plan.archive_needs)}"
        f" ({size(plan.archive_free)} free); about {plan.seconds:.0f} s"
    )
