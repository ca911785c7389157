"""`lensd status`: show the queue, files that wait, problems and totals."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from lensd.cli.options import config_option, load_config
from lensd.text import visible

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lensd.report.documents import Hashes, Status


@click.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--hashes", is_flag=True, help="Show the hashes of originals and outputs.")
def status(config: str | None, as_json: bool, hashes: bool) -> None:
    """Show the queue, the running job, files that wait, problems and totals.

    Works with and without a running daemon, and changes nothing.

    \b
    lensd status              at a terminal, long lists are cut short
    lensd status | less       complete lists
    lensd status --json | jq '.totals'
    lensd status --hashes     the hashes by which other programs know each
                              compressed file and its original; in a pipe
                              as tab-separated values
    """
    from lensd.report.status import build_status
    from lensd.store.ledger import Ledger

    found = load_config(config)
    with Ledger.read_only(found.state.path) as ledger:
        document = build_status(found, ledger, with_hashes=hashes)
    if as_json:
        from lensd.report.documents import to_json

        click.echo(to_json(document, indent=2))
    elif isinstance(document.hashes, list):
        _print_hashes(document.hashes)
    else:
        _print(document)


def _print_hashes(rows: Sequence[Hashes]) -> None:
    from lensd.cli.views.terminal import is_for_people, show
    from lensd.report import hashes

    show(*(hashes.blocks if is_for_people() else hashes.tsv)(rows))


def _print(document: Status) -> None:
    from lensd.cli.views.terminal import is_for_people, show

    if is_for_people():
        from lensd.cli.views.status_board import board

        show(*board(document))
    else:
        from lensd.cli.views.status import lines

        show(*map(visible, lines(document)))
