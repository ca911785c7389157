"""`lensd restore`: the original back, bit-exact."""

from __future__ import annotations

import os
from collections.abc import Sequence

import click

from lensd import __version__
from lensd.cli.asking import ask
from lensd.cli.options import config_option
from lensd.config.folders import printable
from lensd.config.models import Config
from lensd.config.reading import find_config, load
from lensd.desk import chosen
from lensd.errors import EXIT_OK, UsageError
from lensd.report import log
from lensd.report.amounts import size
from lensd.restoring import Original, Restorer
from lensd.store.archive import Archive
from lensd.store.ledger import Ledger


@click.command()
@config_option
@click.argument("paths", nargs=-1, type=click.Path())
@click.option("--all", "everything", is_flag=True, help="Every original that the archive holds.")
@click.option("--list", "list_", is_flag=True, help="Show what would come back; change nothing.")
@click.option("--version", metavar="SHA", help="An older original, by (the start of) its sha256.")
@click.option("--purge", is_flag=True, help="Keep no copy in the archive (it is on another disk).")
def restore(
    config: str | None,
    paths: tuple[str, ...],
    everything: bool,
    list_: bool,
    version: str | None,
    purge: bool,
) -> int:
    """Bring originals back, bit by bit the same.

    PATHS are files in the watched folders, by the name they have there. A restored file is left
    alone from then on, until its content changes or `lensd once --redo` names it.

    \b
    lensd restore --list                        what the archive holds
    lensd restore /srv/loras/style.safetensors  one file
    lensd restore --all                         everything, e.g. before uninstalling
    """
    if not (paths or everything or list_):
        raise UsageError("give the files to restore, or --all; --list shows what there is")
    found = load(find_config(config))
    places = [os.path.abspath(p) for p in paths]
    if list_:
        return _list(found, places, version)
    return ask(found, "restore", paths=places, everything=everything, version=version, purge=purge)


def _list(config: Config, paths: Sequence[str], version: str | None) -> int:
    ledger = Ledger(config.state.path, __version__, readonly=True)
    try:
        archive = Archive(os.path.realpath(config.archive.path))
        restorer = Restorer(config.watch, ledger, archive, log.get().info)
        for original in chosen(restorer, paths, version, everything=not paths):
            click.echo(printable(_describe(original)))
    finally:
        ledger.close()
    return EXIT_OK


def _describe(original: Original) -> str:
    entry = original.entry
    held = size(entry.bytes_in) if entry and entry.bytes_in else "?"
    return f"{original.home}  {held}  sha256 {original.sha256[:12]}  in {original.path}"
