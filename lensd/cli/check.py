"""`lensd check`: list all faults of the configuration, or print a summary of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from lensd.cli import say
from lensd.cli.options import config_option
from lensd.text import visible, visible_lines

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lensd.config.document import Notify
    from lensd.config.model import Config, Watch


@click.command()
@config_option
def check(config: str | None) -> int:
    """List all faults of the configuration.

    Prints FILE:LINE: KEY: FAULT and a remedy for each fault, and exits with code 4. Without
    faults, it prints the watched folders and where the originals go. If lensd is running, a path
    that its systemd unit or its user may not write is a fault, too.

    \b
    lensd check                check ./config.yaml or the first other default
    lensd check -c nas.yaml    check this file
    sudo lensd check           also check what the running service may write
    """
    from lensd.config.faults import FaultyConfigError
    from lensd.config.load import find_config, load_for_run
    from lensd.notify.send import recipients

    path = find_config(config)
    try:
        found = load_for_run(path)
        notes = _check_running_service(path, found)
    except FaultyConfigError as error:
        click.echo(visible_lines(error.details))
        say(f"error: {error.summary}")
        return error.exit_code
    notes += _check_program(found)
    recipients(found.notify)
    for line in (*_summarize(path, found), *_filesystems(found), *notes):
        click.echo(visible(line))
    return 0


def _check_running_service(path: str, config: Config) -> list[str]:
    """Notes on what could not be checked.

    Raises FaultyConfigError for paths that a running lensd may not write.
    """
    from lensd.config.faults import FaultyConfigError
    from lensd.systemd.access import NotAllowed
    from lensd.systemd.unwritable import unwritable

    try:
        faults = unwritable(config)
    except NotAllowed:
        return ["note: `sudo lensd check` also checks what a running lensd may write"]
    if faults:
        raise FaultyConfigError(path, faults)
    return []


def _check_program(config: Config) -> list[str]:
    """A warning where a service of systemd could not start this lensd (203/EXEC)."""
    from lensd.systemd.dropin import unreachable
    from lensd.systemd.facts import find_private_folder, probe
    from lensd.systemd.install import is_booted

    if not is_booted() or find_private_folder() is None:
        return []
    warning = unreachable(probe(config))
    return [] if warning is None else [f"warning: as a service, lensd would not start: {warning}"]


def _summarize(path: str, config: Config) -> Iterator[str]:
    from lensd.config.check_notify import secrets_warning
    from lensd.config.check_paths import folder_warnings

    yield f"{path}: no faults"
    for watch in config.watch:
        yield f"  watch    {_watch_line(watch)}"
    yield f"  archive  {config.archive.path}, {_retention(config.archive.keep_days)}"
    yield f"  state    {config.state.path}"
    yield f"  log      {config.log.path or 'stdout'}, level {config.log.level}"
    if config.metrics.textfile is not None:
        yield f"  metrics  {config.metrics.textfile}"
    if config.notify.is_wanted:
        yield f"  notify   {_describe_notify(config.notify)}"
    for warning in (*folder_warnings(config), *filter(None, [secrets_warning(config)])):
        yield f"warning: {warning.render(path)}"


def _filesystems(config: Config) -> Iterator[str]:
    """What the last start of lensd proved; nothing before the first one."""
    from lensd.cli.views.status import describe_filesystem
    from lensd.errors import StorageError
    from lensd.store.ledger import Ledger

    try:
        with Ledger.read_only(config.state.path) as ledger:
            proofs = ledger.state.filesystems.get() or ()
    except StorageError:
        return
    for proof in proofs:
        yield f"  disk     {describe_filesystem(proof)}"


def _describe_notify(notify: Notify) -> str:
    """Without any address."""
    command = " and a command" if notify.command else ""
    return f"{len(notify.urls)} urls{command}, on {', '.join(notify.on)}"


def _retention(keep_days: int | None) -> str:
    return "originals are kept" if keep_days is None else f"originals are kept {keep_days} days"


def _watch_line(watch: Watch) -> str:
    folder = watch.path if watch.root == watch.path else f"{watch.path} -> {watch.root}"
    old = {"leave": "left alone", "compress": "compressed"}[watch.existing]
    return f"{watch.name}: {folder}, mode {watch.settings.mode}; files already there are {old}"
