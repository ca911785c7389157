"""`lensd once`: process the files that are there now, then exit."""

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
@click.option("--dry-run", is_flag=True, help="Print the plan; change nothing.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@click.option("--redo", is_flag=True, help="Also process files again, from their originals.")
def once(
    config: str | None, paths: tuple[str, ...], dry_run: bool, yes: bool, redo: bool
) -> int:  # fmt: skip
    """Process the files that are there now, then exit.

    Includes the files that `existing: leave` leaves alone. PATHS are files or folders in the
    watched folders; without them, lensd processes all files.

    \b
    lensd once --dry-run            show what would happen and what it would save
    lensd once /srv/loras/style     process one folder
    lensd once --redo               process files again, with changed settings
    lensd once --yes > once.log     do not ask; write the log to a file

    At a terminal, lensd shows the plan, asks for confirmation, shows its progress, and prints the
    outcome of each file.
    """
    from lensd.config.load import find_config, load_for_run
    from lensd.daemon import select
    from lensd.daemon.estimate import estimate

    found = load_for_run(find_config(config))
    select.resolve_paths(found, paths)  # reports a wrong path before any work
    ask = sys.stdin.isatty() and not yes
    if dry_run or ask:
        plans = estimate(found, list(paths), redo=redo)
        _print_plans(plans, stderr=not dry_run)
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


def _print_plans(plans: Sequence[Estimate], *, stderr: bool) -> None:
    """A table at a terminal, otherwise one line per folder."""
    from lensd.cli.views.terminal import console, show

    if console(stderr=stderr).is_terminal and any(plan.files for plan in plans):
        free = f"the archive has {size(plans[0].archive_free)} free"
        note = f"sizes after compression and times are estimates from the file headers; {free}"
        show(_table(plans), "", note, stderr=stderr)
    else:
        show(*(visible(describe(plan)) for plan in plans), stderr=stderr)


def _table(plans: Sequence[Estimate]) -> Table:
    from lensd.cli.views.terminal import table

    numbers = ("files", "now", "after", "saves", "archive needs", "takes")
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
            _format_duration(plan.seconds),
        )
    return found


def _format_duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if minutes < 2 else f"{minutes // 60}:{minutes % 60:02d} h"


def describe(plan: Estimate) -> str:
    """The plan of one folder as a line."""
    if not plan.files:
        return f"{plan.watch}: nothing to do"
    return (
        f"{plan.watch}: {plan.files} files, {size(plan.bytes_now)} now, about "
        f"{size(plan.bytes_then)} in mode {plan.mode}; the archive needs {size(plan.archive_needs)}"
        f" ({size(plan.archive_free)} free); about {plan.seconds:.0f} s"
    )
