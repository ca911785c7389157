"""`lensd once`: process what is there now, then exit."""

from __future__ import annotations

import sys

import click

from lensd import batch
from lensd.cli.options import config_option
from lensd.config.folders import printable
from lensd.config.reading import find_config, load_for_run
from lensd.estimate import Estimate, estimate
from lensd.once import once as process
from lensd.report.amounts import size


@click.command()
@config_option
@click.argument("paths", nargs=-1, type=click.Path())
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
    lensd once --redo               again with today's settings, from the archived originals
    """
    found = load_for_run(find_config(config))
    batch.places(found, paths)  # before anything else is done
    ask = sys.stdin.isatty() and not yes
    if dry_run or ask:
        plans = estimate(found, list(paths), redo=redo)
        for plan in plans:
            click.echo(printable(describe(plan)), err=not dry_run)
        if dry_run or not any(p.files for p in plans):
            return 0
        click.confirm("Go on?", abort=True, err=True)
    return process(found, paths=list(paths), redo=redo)


def describe(plan: Estimate) -> str:
    """One folder's line."""
    if not plan.files:
        return f"{plan.watch}: nothing to do"
    return (
        f"{plan.watch}: {plan.files} files, {size(plan.bytes_now)} now, about "
        f"{size(plan.bytes_then)} in mode {plan.mode}; the archive needs {size(plan.archive_needs)}"
        f" ({size(plan.archive_free)} free); about {plan.seconds:.0f} s"
    )
