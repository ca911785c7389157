"""`lensd restore`: the original back, bit-exact."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence

import click

from lensd import __version__
from lensd.cli import say
from lensd.cli.options import config_option
from lensd.cli.text import size
from lensd.config.folders import printable
from lensd.config.models import Config
from lensd.config.reading import find_config, load
from lensd.errors import EXIT_OK, EXIT_SOME_FAILED, LensdError, UsageError
from lensd.report import log
from lensd.restoring import Original, Restorer
from lensd.store.archive import Archive
from lensd.store.ledger import Ledger
from lensd.store.lock import StateLock


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
    with _restorer(found, readonly=list_) as restorer:
        originals = _choose(restorer, paths, version, everything=everything or not paths)
        if list_:
            for original in originals:
                click.echo(printable(_describe(original)))
            return EXIT_OK
        return _put_back(restorer, originals, purge=purge)


@contextlib.contextmanager
def _restorer(config: Config, *, readonly: bool) -> Iterator[Restorer]:
    with contextlib.ExitStack() as stack:
        if not readonly:
            stack.enter_context(StateLock(config.state.path))
            log.configure(config.log.path, config.log.level, config.log.mode_bits)
        ledger = Ledger(config.state.path, __version__, readonly=readonly)
        stack.callback(ledger.close)
        archive = Archive(os.path.realpath(config.archive.path))
        yield Restorer(config.watch, ledger, archive, log.get().info)


def _choose(
    restorer: Restorer, paths: Sequence[str], version: str | None, *, everything: bool
) -> list[Original]:
    if everything:
        return list(restorer.everything())
    return [restorer.of_path(path, version) for path in paths]


def _put_back(restorer: Restorer, originals: Sequence[Original], *, purge: bool) -> int:
    code = EXIT_OK
    for original in originals:
        try:
            method = restorer.put_back(original, purge=purge)
        except (LensdError, OSError) as error:
            say(printable(f"error: {original.home}: {error}"))
            code = EXIT_SOME_FAILED
        else:
            say(printable(f"restored {original.home} ({method} from {original.path})"))
    return code


def _describe(original: Original) -> str:
    entry = original.entry
    held = size(entry.bytes_in) if entry and entry.bytes_in else "?"
    return f"{original.home}  {held}  sha256 {original.sha256[:12]}  in {original.path}"
