"""`lensd once`: process the files that are there now, then exit."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from lensd.cli import say
from lensd.cli.options import LORA_OR_FOLDER, config_option, find_named, verbose_option
from lensd.errors import EXIT_OK, LockedError

if TYPE_CHECKING:
    from lensd.config.model import Config


@click.command()
@config_option
@click.argument("paths", nargs=-1, type=LORA_OR_FOLDER)
@click.option("--dry-run", is_flag=True, help="Print the plan; change nothing.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@click.option("--redo", is_flag=True, help="Also process files again, from their originals.")
@verbose_option
def once(
    config: str | None, paths: tuple[str, ...], dry_run: bool, yes: bool, redo: bool, verbose: bool
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
    outcome of each file. While a daemon runs, the daemon processes the files.
    """
    from lensd.config.load import find_config, load_for_run
    from lensd.daemon import select
    from lensd.daemon.estimate import estimate

    found = load_for_run(find_config(config))
    paths = find_named(found, paths)
    select.resolve_paths(found, paths)  # reports a wrong path before any work
    ask = sys.stdin.isatty() and not yes
    if dry_run or ask:
        from lensd.cli.views.plan import show_plans

        plans = estimate(found, list(paths), redo=redo)
        show_plans(found, plans, stderr=not dry_run, verbose=verbose)
        if dry_run:
            return EXIT_OK
        if not any(p.files for p in plans):
            from lensd.cli.client import note_deleted

            note_deleted(found)
            return EXIT_OK
        if not click.confirm("Go on?", err=True):
            say("nothing was changed")
            return EXIT_OK
    try:
        return _process(found, list(paths), redo=redo, verbose=verbose)
    except LockedError as locked:
        return _let_daemon_process(found, paths, locked, redo=redo)


def _process(config: Config, paths: list[str], *, redo: bool, verbose: bool) -> int:
    from lensd.cli.views.batch_bar import BatchBar, Plain
    from lensd.daemon.once import once as process

    is_drawn = sys.stderr.isatty()
    with BatchBar(config.watch, verbose=verbose) if is_drawn else Plain() as observer:
        return process(config, paths=paths, redo=redo, observer=observer)


def _let_daemon_process(
    config: Config, paths: tuple[str, ...], locked: LockedError, *, redo: bool
) -> int:
    """Ask the daemon that has the lock. Raises `locked` if no daemon has it, and LensdError."""
    from lensd.cli.client import say_messages
    from lensd.daemon import control
    from lensd.daemon.control_messages import OnceRequest

    if not os.path.lexists(os.path.join(config.state.path, control.NAME)):
        raise locked
    say("a daemon runs, so it processes the files")
    request = OnceRequest(paths=tuple(map(os.path.abspath, paths)), redo=redo)
    return control.send_request(config.state.path, request, say_messages(config))
