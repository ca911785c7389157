"""`lensd restore`: put originals back, bit for bit."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from lensd.cli.options import LORA_OR_FOLDER, config_option, load_config
from lensd.errors import EXIT_OK, LensdError, UsageError
from lensd.text import size, visible

if TYPE_CHECKING:
    from lensd.cli.views.progress import Bar
    from lensd.config.model import Config
    from lensd.daemon.control_messages import Message, RestoreRequest
    from lensd.jobs.originals import Original


@click.command()
@config_option
@click.argument("paths", nargs=-1, type=LORA_OR_FOLDER)
@click.option("--all", "everything", is_flag=True, help="Restore every original in the archive.")
@click.option("--list", "list_", is_flag=True, help="List what can be restored; change nothing.")
@click.option("--version", metavar="SHA", help="An older original, by the start of its sha256.")
@click.option("--purge", is_flag=True, help="Keep no copy in an archive on another disk.")
def restore(
    config: str | None,
    paths: tuple[str, ...],
    everything: bool,
    list_: bool,
    version: str | None,
    purge: bool,
) -> int:
    """Put originals back, bit for bit.

    PATHS are files in the watched folders, by the names that they have there. lensd does not
    compress a restored file again, until its content changes or `lensd once --redo` names it.

    \b
    lensd restore --list                   list the originals in the archive
    lensd restore loras/style.safetensors  restore one file
    lensd restore --all                    restore every file, e.g. to uninstall
    """
    from lensd.cli.client import handle_request
    from lensd.daemon.control_messages import RestoreRequest

    if not (paths or everything or list_):
        raise UsageError("give the files to restore, or --all; --list shows what there is")
    found = load_config(config)
    request = RestoreRequest(
        paths=tuple(map(os.path.abspath, paths)),
        everything=everything or (list_ and not paths),
        version=version,
        purge=purge,
    )
    if list_:
        _show(_find_originals(found, request))
        return EXIT_OK
    if sys.stderr.isatty():
        return _restore_with_bar(found, request)
    return handle_request(found, request)


def _restore_with_bar(config: Config, request: RestoreRequest) -> int:
    from lensd.cli.client import handle_request
    from lensd.cli.views.progress import Bar
    from lensd.cli.views.terminal import share_a_terminal
    from lensd.logs.sinks import NullSink

    originals: list[Original] = []
    with suppress(LensdError):  # the handler reports it
        originals = _find_originals(config, request)
    stdout = NullSink() if share_a_terminal() else None  # the log says the same as the messages
    with Bar({o.full_path: _bytes_of(o) for o in originals}) as bar:
        progress = _RestoreProgress(bar, originals)
        return handle_request(config, request, progress.receive, stdout)


class _RestoreProgress:
    """Shows messages above a bar, and on the bar which file is restored now."""

    def __init__(self, bar: Bar, originals: Sequence[Original]) -> None:
        self._bar = bar
        self._waiting = dict.fromkeys(o.full_path for o in originals)
        self._begin_next()

    def receive(self, message: Message) -> None:
        from lensd.daemon.control_messages import Progress

        self._bar.say(message.say)
        if isinstance(message, Progress):
            self._bar.end(message.path)
            self._waiting.pop(message.path, None)
            self._begin_next()

    def _begin_next(self) -> None:
        """The handler restores in the order of the originals."""
        path = next(iter(self._waiting), None)
        if path is not None:
            self._bar.begin(path)


def _find_originals(config: Config, request: RestoreRequest) -> list[Original]:
    """The originals by the ledger; changes nothing. Raises UsageError, StorageError."""
    from lensd.cli.client import read_only_handler

    with read_only_handler(config) as handler:
        return handler.find_originals(request)


def _show(originals: Sequence[Original]) -> None:
    """One original per line; a table at a terminal, without the archive path."""
    from lensd.cli.views.terminal import is_for_people, show, table

    if not is_for_people():
        show(*(visible(_describe(original)) for original in originals))
        return
    found = table("bytes", "sha256", "original of", numbers=("bytes",))
    for o in originals:
        found.add_row(size(_bytes_of(o)), o.sha256[:12], visible(o.full_path))
    show(found, "", f"{len(originals):,} originals, {size(sum(map(_bytes_of, originals)))}")


def _describe(original: Original) -> str:
    bytes_ = size(_bytes_of(original)) if _bytes_of(original) else "?"
    return (
        f"{original.full_path}  {bytes_}  sha256 {original.sha256[:12]}  in {original.archive_path}"
    )


def _bytes_of(original: Original) -> int:
    """0 if the ledger has no size."""
    return (original.entry and original.entry.bytes_in) or 0
