"""`lensd status`: show the queue, files that wait, problems and totals."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import click

from lensd.cli import say
from lensd.cli.options import config_option, load_config
from lensd.text import visible

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lensd.config.model import Config
    from lensd.report.documents import Hashes, Status
    from lensd.store.ledger import Ledger


@click.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--hashes", is_flag=True, help="Show the hashes of originals and outputs.")
@click.option("--all", "everything", is_flag=True, help="At a terminal, show complete lists.")
def status(config: str | None, *, as_json: bool, hashes: bool, everything: bool) -> None:
    """Show the queue, the running job, files that wait, problems and totals.

    Works with and without a running daemon, and changes nothing.

    \b
    lensd status              at a terminal, long lists are cut short
    lensd status --all        complete lists
    lensd status --json | jq '.totals'
    lensd status --hashes     the hashes by which other programs know each
                              compressed file and its original; in a pipe
                              as tab-separated values
    """
    from lensd.report.status import build_status

    found = load_config(config)
    with _open_ledger(found) as ledger:
        document = build_status(found, ledger, with_hashes=hashes)
    if as_json:
        from lensd.report.json_text import to_json

        click.echo(to_json(document, indent=2))
    elif isinstance(document.hashes, list):
        _print_hashes(document.hashes)
    else:
        if ledger is None:
            say(
                "lensd has not run with this configuration yet; start it with `lensd once` or "
                "`lensd run`"
            )
        _print(found, document, everything=everything)


def _open_ledger(config: Config) -> AbstractContextManager[Ledger | None]:
    """The ledger to read; None before the first run. Raises StorageError."""
    from lensd.store.ledger import Ledger, exists

    if not exists(config.state.path):
        return nullcontext()
    return Ledger.read_only(config.state.path)


def _print_hashes(rows: Sequence[Hashes]) -> None:
    from lensd.cli.views.terminal import is_for_people, show
    from lensd.report import hashes

    show(*(hashes.blocks if is_for_people() else hashes.tsv)(rows))


def _print(config: Config, document: Status, *, everything: bool) -> None:
    from lensd.cli.views.terminal import is_for_people, show

    if is_for_people():
        from lensd.cli.views.status_board import board

        show(*board(document, config, everything=everything))
    else:
        from lensd.cli.views.status import lines

        show(*map(visible, lines(document)))
