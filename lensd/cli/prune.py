"""`lensd prune`: originals that are older than `archive.keep_days` are deleted."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator

import click

from lensd import __version__
from lensd.cli import say
from lensd.cli.options import config_option
from lensd.cli.text import size
from lensd.config.folders import printable
from lensd.config.models import Config
from lensd.config.reading import find_config, load
from lensd.errors import EXIT_OK, ConfigError
from lensd.pruning import Pruner, Result
from lensd.report import log
from lensd.store.archive import Archive
from lensd.store.ledger import Ledger
from lensd.store.lock import StateLock


@click.command()
@config_option
@click.option("--dry-run", is_flag=True, help="Print what would be deleted, and change nothing.")
def prune(config: str | None, *, dry_run: bool) -> int:
    """Delete archived originals that are older than `archive.keep_days`.

    An original goes only if its compressed file is still there, undamaged: it is read again whole
    before. What stays is named with the reason. A deleted original cannot be restored.
    """
    found = load(find_config(config))
    with _pruner(found, dry_run=dry_run) as pruner:
        results = []
        for result in pruner.prune(time.time(), _never, dry_run=dry_run):
            results.append(result)
            line = printable(_line(result, dry_run=dry_run))
            click.echo(line) if dry_run else say(line)
    gone = [r for r in results if r.stays is None]
    say(
        f"{len(gone)} originals {'would be deleted' if dry_run else 'deleted'}, "
        f"{size(sum(r.bytes for r in gone))}; {len(results) - len(gone)} stay"
    )
    return EXIT_OK


@contextlib.contextmanager
def _pruner(config: Config, *, dry_run: bool) -> Iterator[Pruner]:
    days = config.archive.keep_days
    if days is None:
        raise ConfigError(
            "archive.keep_days is null, so every original is kept; set it to a number of days, "
            "e.g. keep_days: 90"
        )
    with contextlib.ExitStack() as stack:
        if not dry_run:
            stack.enter_context(StateLock(config.state.path))
            log.configure(config.log.path, config.log.level, config.log.mode_bits)
        ledger = Ledger(config.state.path, __version__, readonly=dry_run)
        stack.callback(ledger.close)
        archive = Archive(os.path.realpath(config.archive.path))
        yield Pruner(ledger, archive, log.get().info, days)


def _line(result: Result, *, dry_run: bool) -> str:
    if result.stays is not None:
        return f"stays: {result.path}  {size(result.bytes)}  {result.stays}"
    done = "would delete" if dry_run else "deleted"
    return f"{done}: {result.path}  {size(result.bytes)}  in {result.archive_path}"


def _never() -> bool:
    return False
