"""`lensd restore`: the original back, bit-exact."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from lensd import __version__
from lensd.cli.options import LORA_OR_FOLDER, config_option, load_config
from lensd.errors import EXIT_OK, LensdError, UsageError
from lensd.text import size, visible

if TYPE_CHECKING:
    from lensd.config.model import Config
    from lensd.jobs.restore import Original


@click.command()
@config_option
@click.argument("paths", nargs=-1, type=LORA_OR_FOLDER)
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
    lensd restore --list                   what the archive holds
    lensd restore loras/style.safetensors  one file
    lensd restore --all                    everything, e.g. to uninstall
    """
    if not (paths or everything or list_):
        raise UsageError("give the files to restore, or --all; --list shows what there is")
    found = load_config(config)
    places = [os.path.abspath(p) for p in paths]
    if list_:
        _show(_chosen(found, places, version))
        return EXIT_OK
    wanted: dict[str, Any] = {
        "paths": places,
        "everything": everything,
        "version": version,
        "purge": purge,
    }
    if sys.stderr.isatty():
        return _with_bar(found, wanted)
    from lensd.cli.client import ask

    return ask(found, "restore", **wanted)


def _with_bar(config: Config, wanted: dict[str, Any]) -> int:
    """Whoever does it tells one line a file, in the order of the list."""
    from lensd.cli.client import ask
    from lensd.cli.views.progress import Bar
    from lensd.cli.views.terminal import share_a_terminal
    from lensd.logs.sinks import NullSink

    originals = []
    with suppress(LensdError):  # told by who does it
        originals = _chosen(config, wanted["paths"], wanted["version"])
    left = [original.home for original in originals]
    with Bar({o.home: _bytes(o) for o in originals}) as bar:

        def next_one() -> None:
            if left:
                bar.begin(left[0])

        def tell(line: str) -> None:
            bar.say(line)
            if left:
                bar.end(left.pop(0))
            next_one()

        next_one()
        stdout = NullSink() if share_a_terminal() else None  # it says the same
        return ask(config, "restore", tell, stdout, **wanted)


def _chosen(config: Config, paths: Sequence[str], version: str | None) -> list[Original]:
    """What the ledger says; nothing is changed. Raises UsageError, StorageError."""
    from lensd.daemon.requests import chosen
    from lensd.jobs.restore import Restorer
    from lensd.logs import log
    from lensd.store.archive import Archive
    from lensd.store.ledger import Ledger

    ledger = Ledger(config.state.path, __version__, readonly=True)
    try:
        archive = Archive(os.path.realpath(config.archive.path))
        restorer = Restorer(config.watch, ledger, archive, log.emit)
        return chosen(restorer, paths, version, everything=not paths)
    finally:
        ledger.close()


def _show(originals: Sequence[Original]) -> None:
    """One original a line; a table for a person, without the path that follows from the name."""
    from lensd.cli.views.terminal import is_for_people, show, table

    if not is_for_people():
        show(*(visible(_describe(original)) for original in originals))
        return
    found = table("bytes", "sha256", "original of", numbers=("bytes",))
    for o in originals:
        found.add_row(size(_bytes(o)), o.sha256[:12], visible(o.home))
    show(found, "", f"{len(originals):,} originals, {size(sum(map(_bytes, originals)))}")


def _describe(original: Original) -> str:
    held = size(_bytes(original)) if _bytes(original) else "?"
    return f"{original.home}  {held}  sha256 {original.sha256[:12]}  in {original.path}"


def _bytes(original: Original) -> int:
    """0 where the ledger does not know."""
    return (original.entry and original.entry.bytes_in) or 0
